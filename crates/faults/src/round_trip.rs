//! A structured round trip: bytes choose tensors and metadata, a file is written of them, and what is read again must be
//! the same. A file that our writer accepts and our reader does not, or reads otherwise, is a fault of one of them.

use std::path::Path;

use quern_run::random::Random;
use quern_tensor_io::{
    Array, Checkpoint, ElementType, Metadata, StringArray, TensorPlan, Value, gguf, safetensors,
};

use crate::exercise::{Outcome, text};

/// Numbers chosen by bytes; 0 when they are used up.
struct Choices<'a> {
    bytes: &'a [u8],
}

impl Choices<'_> {
    fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.bytes.split_first() else { return 0 };
        self.bytes = rest;
        first
    }

    fn below(&mut self, limit: usize) -> usize {
        let value = usize::from(self.byte());
        if limit <= 256 { value % limit } else { (value << 8 | usize::from(self.byte())) % limit }
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|_| self.byte()))
    }

    fn text(&mut self) -> String {
        let length = 1 + self.below(24);
        let one = |c: &mut Self| match c.below(12) {
            0 => char::from_u32(c.u64() as u32 & 0x1f_ffff).unwrap_or('\u{fffd}'),
            1 => ['"', '\\', '\n', '\0', '\u{7f}', '\u{85}'][c.below(6)],
            2 => '.',
            _ => char::from(b'a' + c.below(26) as u8),
        };
        (0..length).map(|_| one(self)).collect()
    }

    fn array(&mut self) -> Array {
        let count = self.below(20);
        match self.below(5) {
            0 => Array::U8((0..count).map(|_| self.byte()).collect()),
            1 => Array::I64((0..count).map(|_| self.u64() as i64).collect()),
            2 => Array::F32((0..count).map(|_| f32::from(self.byte()) / 8.0).collect()),
            3 => Array::Bool((0..count).map(|_| self.byte() & 1 == 1).collect()),
            _ => {
                let mut strings = StringArray::new();
                (0..count).for_each(|_| strings.push(&self.text()));
                Array::String(strings)
            }
        }
    }

    fn value(&mut self) -> Value {
        match self.below(10) {
            0 => Value::U8(self.byte()),
            1 => Value::I8(self.byte() as i8),
            2 => Value::U16(self.u64() as u16),
            3 => Value::I32(self.u64() as i32),
            4 => Value::U64(self.u64()),
            5 => Value::F64(f64::from(self.byte()) / 3.0),
            6 => Value::Bool(self.byte() & 1 == 1),
            7 => Value::Array(self.array()),
            _ => Value::String(self.text()),
        }
    }

    /// A tensor of at most some thousand values, of a type that `known` accepts.
    fn tensor(&mut self, known: impl Fn(ElementType) -> bool) -> TensorPlan {
        let types: Vec<_> = ElementType::ALL.iter().copied().filter(|&t| known(t)).collect();
        let element_type = types[self.below(types.len())];
        let dimensions = self.below(4) + usize::from(element_type.block_elements() > 1);
        let mut shape: Vec<usize> = (0..dimensions).map(|_| self.below(5)).collect();
        if let Some(columns) = shape.last_mut() {
            *columns *= element_type.block_elements();
        }
        TensorPlan { name: self.text(), element_type, shape }
    }
}

/// Reads choices from `file`, writes both containers beside it and reads them again.
///
/// # Panics
/// What is read is not what was written.
pub fn run(file: &Path) -> Outcome {
    let bytes = std::fs::read(file).map_err(text)?;
    let mut choices = Choices { bytes: &bytes };
    let as_gguf = choices.byte() & 1 == 0;
    let mut metadata = Metadata::new();
    for _ in 0..choices.below(12) {
        let key = choices.text();
        // safetensors has texts alone.
        let value = if as_gguf { choices.value() } else { Value::String(choices.text()) };
        metadata.set(key, value);
    }
    let known = |t: ElementType| if as_gguf { t.ggml_id().is_some() } else { t.block_elements() == 1 };
    let mut tensors: Vec<_> = (0..choices.below(16)).map(|_| choices.tensor(known)).collect();
    // Most files have names of their own; one in eight may say one twice, which must be refused.
    if choices.below(8) > 0 {
        tensors.iter_mut().enumerate().for_each(|(at, tensor)| tensor.name += &at.to_string());
    }
    let sizes = tensors.iter().map(|t| {
        let blocks = t.shape.iter().product::<usize>() / t.element_type.block_elements();
        blocks * t.element_type.block_bytes()
    });
    let mut random = Random::new(choices.u64());
    let data: Vec<Vec<u8>> = sizes.map(|n| (0..n).map(|_| random.next_u64() as u8).collect()).collect();
    let written = file.with_extension(if as_gguf { "gguf" } else { "safetensors" });
    if as_gguf {
        let mut writer = gguf::Writer::create(&written, &metadata, &tensors, true).map_err(text)?;
        data.iter().try_for_each(|data| writer.write(data)).map_err(text)?;
        writer.finish().map_err(text)?;
    } else {
        let mut writer = safetensors::Writer::create(&written, &metadata, &tensors, true).map_err(text)?;
        data.iter().try_for_each(|data| writer.write(data)).map_err(text)?;
        writer.finish().map_err(text)?;
    }
    let read = Checkpoint::open(&written);
    let read = read.unwrap_or_else(|e| panic!("what was written cannot be read: {e}"));
    assert_eq!(read.tensors().len(), tensors.len());
    for (plan, data) in tensors.iter().zip(&data) {
        let found = read.tensor(&plan.name).unwrap_or_else(|| panic!("{:?} is lost", plan.name));
        assert_eq!((found.info.element_type, &found.info.shape), (plan.element_type, &plan.shape));
        assert!(found.data == data.as_slice(), "{:?} has other bytes", plan.name);
    }
    if as_gguf {
        assert_eq!(read.metadata(), &metadata);
    }
    Ok(())
}
