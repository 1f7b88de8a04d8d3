//! Files put together byte by byte, so that they can break any rule.

/// GGUF under construction: header fields as they come, no checks at all.
#[derive(Clone, Default)]
pub struct Gguf(pub Vec<u8>);

/// Value type ids.
pub const U8: u32 = 0;
pub const U32: u32 = 4;
pub const F32: u32 = 6;
pub const BOOL: u32 = 7;
pub const STRING: u32 = 8;
pub const ARRAY: u32 = 9;

/// Tensor type ids.
pub const T_F32: u32 = 0;
pub const T_Q4_0: u32 = 2;
pub const T_Q4_K: u32 = 12;

impl Gguf {
    /// Magic, version 3 and the counts.
    pub fn new(tensors: u64, entries: u64) -> Self {
        Self::version(3, tensors, entries)
    }

    pub fn version(version: u32, tensors: u64, entries: u64) -> Self {
        Self(b"GGUF".to_vec()).u32(version).u64(tensors).u64(entries)
    }

    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn u32(self, v: u32) -> Self {
        self.bytes(&v.to_le_bytes())
    }

    pub fn u64(self, v: u64) -> Self {
        self.bytes(&v.to_le_bytes())
    }

    pub fn string(self, s: &str) -> Self {
        self.u64(s.len() as u64).bytes(s.as_bytes())
    }

    /// A u32 entry.
    pub fn entry(self, key: &str, value: u32) -> Self {
        self.string(key).u32(U32).u32(value)
    }

    /// A tensor's description; dimensions innermost first.
    pub fn tensor(mut self, name: &str, dimensions: &[u64], kind: u32, offset: u64) -> Self {
        self = self.string(name).u32(dimensions.len() as u32);
        for &d in dimensions {
            self = self.u64(d);
        }
        self.u32(kind).u64(offset)
    }

    /// Zeros to the next multiple of `alignment`, then `n` bytes of data.
    pub fn data(mut self, alignment: usize, n: usize) -> Self {
        self.0.resize(self.0.len().next_multiple_of(alignment), 0);
        let data = (0..n).map(|i| i as u8);
        self.0.extend(data);
        self
    }
}

/// A sound file: two entries, a q4_0 and an f32 tensor.
pub fn sound_gguf() -> Vec<u8> {
    Gguf::new(2, 2)
        .string("general.architecture")
        .u32(STRING)
        .string("llama")
        .string("tokens")
        .u32(ARRAY)
        .u32(STRING)
        .u64(2)
        .string("a")
        .string("b")
        .tensor("blk.0.weight", &[32, 2], T_Q4_0, 0)
        .tensor("norm.weight", &[3], T_F32, 64)
        .data(32, 64 + 12)
        .0
}

/// A safetensors file with this header and `n` bytes of data.
pub fn safetensors(header: &str, n: usize) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend((0..n).map(|i| i as u8));
    file
}

/// A sound file with two tensors.
pub fn sound_safetensors() -> Vec<u8> {
    let header = r#"{"__metadata__":{"format":"pt"},
        "a":{"dtype":"F16","shape":[2,3],"data_offsets":[0,12]},
        "b":{"dtype":"F32","shape":[],"data_offsets":[12,16]}}"#;
    safetensors(header, 16)
}

/// A shard with one-byte tensors of these names.
pub fn shard(names: &[&str]) -> Vec<u8> {
    let entry = |(i, n): (usize, &&str)| {
        format!(r#""{n}":{{"dtype":"U8","shape":[1],"data_offsets":[{i},{}]}}"#, i + 1)
    };
    let entries: Vec<_> = names.iter().enumerate().map(entry).collect();
    safetensors(&format!("{{{}}}", entries.join(",")), names.len())
}
