// Arrays of numbers, as the JSON in a page holds them.

const ARRAYS = { u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, f4: Float32Array, f8: Float64Array };

function unpack({ type, data }) {
  const bytes = Uint8Array.from(atob(data), (char) => char.charCodeAt(0));
  return new ARRAYS[type](bytes.buffer);
}
