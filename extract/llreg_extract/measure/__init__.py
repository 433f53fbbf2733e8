"""What scoring takes: bytes, memory, operations, seconds."""
