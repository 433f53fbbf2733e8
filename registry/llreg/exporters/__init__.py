"""What a registry holds in the formats of other tools: values, trees and neighbour graphs."""
