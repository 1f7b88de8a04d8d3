//! A position in untrusted bytes: nothing is read, and nothing allocated, before its length is checked.

use std::fmt;
use std::path::Path;

use super::MAX_LENGTH;
use crate::budget::{Budget, Exceeded};
use crate::{Array, Error, StringArray, Value};

/// A broken rule, before the file's name is attached.
#[derive(Debug)]
pub(super) struct Fault {
    at: usize,
    tensor: Option<String>,
    unsupported: bool,
    short: bool,
    what: String,
}

impl Fault {
    pub fn new(at: usize, what: impl Into<String>) -> Self {
        Self { at, tensor: None, unsupported: false, short: false, what: what.into() }
    }

    pub fn unsupported(at: usize, what: impl Into<String>) -> Self {
        Self { unsupported: true, ..Self::new(at, what) }
    }

    /// Not an error of the file: it continues beyond the bytes that are available.
    fn short(at: usize) -> Self {
        Self { short: true, ..Self::new(at, "more of the file is needed") }
    }

    /// Whether more of the file is needed to decide.
    pub fn is_short(&self) -> bool {
        self.short
    }

    /// Says where in the header it happened.
    pub fn within(mut self, place: impl fmt::Display) -> Self {
        self.what = format!("{place}: {}", self.what);
        self
    }

    pub fn of_tensor(mut self, name: &str) -> Self {
        self.tensor = Some(name.to_owned());
        self
    }

    pub fn in_file(self, path: &Path) -> Error {
        let error = match self.unsupported {
            true => Error::unsupported(path, self.what),
            false => Error::malformed(path, self.what),
        };
        let error = error.at(self.at as u64);
        match self.tensor {
            Some(name) => error.with_tensor(name),
            None => error,
        }
    }
}

pub(super) struct Cursor<'a, 'b> {
    data: &'a [u8],
    at: usize,
    /// Length of the whole file in bytes; `data` may be only its beginning.
    size: usize,
    /// Pays for what is read and for what it becomes.
    budget: &'b mut Budget,
}

impl<'a, 'b> Cursor<'a, 'b> {
    /// The beginning of a file of `size` bytes, or all of it.
    pub fn new(data: &'a [u8], size: u64, budget: &'b mut Budget) -> Self {
        let size = usize::try_from(size).unwrap_or(usize::MAX).max(data.len());
        Self { data, at: 0, size, budget }
    }

    /// Pays for an entry that begins at `at`.
    pub fn pay(
        &mut self,
        at: usize,
        pay: impl FnOnce(&mut Budget) -> Result<(), Exceeded>,
    ) -> Result<(), Fault> {
        pay(self.budget).map_err(|Exceeded| Fault::new(at, Exceeded::WHAT))
    }

    /// Bytes read so far.
    pub fn position(&self) -> usize {
        self.at
    }

    /// Bytes of the file still to read.
    pub fn left(&self) -> usize {
        self.size - self.at
    }

    /// Checks that the next `n` bytes, which the file has, are available.
    fn at_hand(&self, n: usize) -> Result<(), Fault> {
        if n > self.data.len() - self.at { Err(Fault::short(self.at)) } else { Ok(()) }
    }

    /// The next `n` bytes; `what` names them in the error.
    pub fn take(&mut self, n: usize, what: &str) -> Result<&'a [u8], Fault> {
        match self.data[self.at..].get(..n) {
            Some(bytes) => {
                // The map's pages are memory too once they are touched.
                let at = self.at;
                self.pay(at, |budget| budget.spend(n as u64))?;
                self.at += n;
                Ok(bytes)
            }
            None if n <= self.left() => Err(Fault::short(self.at)),
            None => {
                let left = self.left();
                Err(Fault::new(
                    self.at,
                    format!("the file ends within {what}: {n} bytes needed, {left} left"),
                ))
            }
        }
    }

    fn fixed<const N: usize>(&mut self, what: &str) -> Result<[u8; N], Fault> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N, what)?);
        Ok(bytes)
    }

    pub fn u32(&mut self, what: &str) -> Result<u32, Fault> {
        self.fixed(what).map(u32::from_le_bytes)
    }

    pub fn u64(&mut self, what: &str) -> Result<u64, Fault> {
        self.fixed(what).map(u64::from_le_bytes)
    }

    /// A string's bytes: at most 2^30 and at most what is left.
    fn string_bytes(&mut self, what: &str) -> Result<&'a [u8], Fault> {
        let at = self.at;
        let length = self.u64(what)?;
        if length > MAX_LENGTH || length > self.left() as u64 {
            let left = self.left();
            return Err(Fault::new(at, format!("{what} claims {length} bytes, {left} are left in the file")));
        }
        self.take(length as usize, what)
    }

    pub fn string(&mut self, what: &str) -> Result<&'a str, Fault> {
        let bytes = self.string_bytes(what)?;
        let start = self.at - bytes.len();
        std::str::from_utf8(bytes).map_err(|e| not_utf8(start, what, e))
    }

    /// A metadata value of any type.
    pub fn value(&mut self) -> Result<Value, Fault> {
        let at = self.at;
        let id = self.u32("a value type")?;
        Ok(match id {
            0 => Value::U8(u8::from_le_bytes(self.fixed("a u8")?)),
            1 => Value::I8(i8::from_le_bytes(self.fixed("an i8")?)),
            2 => Value::U16(u16::from_le_bytes(self.fixed("a u16")?)),
            3 => Value::I16(i16::from_le_bytes(self.fixed("an i16")?)),
            4 => Value::U32(u32::from_le_bytes(self.fixed("a u32")?)),
            5 => Value::I32(i32::from_le_bytes(self.fixed("an i32")?)),
            6 => Value::F32(f32::from_le_bytes(self.fixed("an f32")?)),
            7 => Value::Bool(truth(self.fixed::<1>("a bool")?[0], at + 4)?),
            8 => {
                let text = self.string("a string")?;
                self.pay(at, |budget| budget.value(text.len() as u64))?;
                Value::String(text.to_owned())
            }
            9 => Value::Array(self.array()?),
            10 => Value::U64(u64::from_le_bytes(self.fixed("a u64")?)),
            11 => Value::I64(i64::from_le_bytes(self.fixed("an i64")?)),
            12 => Value::F64(f64::from_le_bytes(self.fixed("an f64")?)),
            _ => return Err(Fault::new(at, format!("unknown value type {id} (0 to 12 are known)"))),
        })
    }

    fn array(&mut self) -> Result<Array, Fault> {
        let at = self.at;
        let id = self.u32("an array's element type")?;
        let count = self.u64("an array's length")?;
        let width = match id {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8, // a string takes at least its length
            9 => return Err(Fault::new(at, "an array of arrays, which ggml does not allow either")),
            _ => return Err(Fault::new(at, format!("unknown array element type {id} (0 to 12 are known)"))),
        };
        let left = self.left();
        if count > MAX_LENGTH || count * width > left as u64 {
            let what =
                format!("an array claims {count} elements of at least {width} bytes, {left} bytes are left");
            return Err(Fault::new(at + 4, what));
        }
        let count = count as usize;
        if id == 8 {
            return self.strings(count).map(Array::String);
        }
        let start = self.at;
        self.pay(at, |budget| budget.value(count as u64 * width))?;
        let bytes = self.take(count * width as usize, "an array")?;
        macro_rules! numbers {
            ($variant:ident, $number:ty) => {
                Array::$variant(bytes.as_chunks().0.iter().map(|&b| <$number>::from_le_bytes(b)).collect())
            };
        }
        Ok(match id {
            0 => Array::U8(bytes.to_vec()),
            1 => numbers!(I8, i8),
            2 => numbers!(U16, u16),
            3 => numbers!(I16, i16),
            4 => numbers!(U32, u32),
            5 => numbers!(I32, i32),
            6 => numbers!(F32, f32),
            7 => {
                let each = bytes.iter().enumerate();
                Array::Bool(each.map(|(i, &b)| truth(b, start + i)).collect::<Result<_, _>>()?)
            }
            10 => numbers!(U64, u64),
            11 => numbers!(I64, i64),
            _ => numbers!(F64, f64),
        })
    }

    /// A vocabulary: hundreds of thousands of short strings, so in two passes. The first checks the lengths,
    /// the second copies into one allocation of the right size and checks the encoding of all at once.
    fn strings(&mut self, count: usize) -> Result<StringArray, Fault> {
        let start = self.at;
        self.at_hand(count * 8)?;
        self.pay(start, |budget| budget.value(count as u64 * 8))?;
        let mut ends = Vec::with_capacity(count);
        let mut total = 0;
        for i in 0..count {
            total += self.string_bytes("a string").map_err(|f| f.within(format_args!("element {i}")))?.len();
            ends.push(total as u32);
        }
        if u32::try_from(total).is_err() {
            return Err(Fault::new(start, "the strings of an array have more than 4 GiB together"));
        }
        self.pay(start, |budget| budget.value(total as u64))?;
        let mut text = Vec::with_capacity(total);
        let mut at = start;
        for &end in &ends {
            let next = at + 8 + (end as usize - text.len());
            text.extend_from_slice(&self.data[at + 8..next]);
            at = next;
        }
        StringArray::from_parts(text, ends).map_err(|(element, byte)| {
            // Before the byte are all earlier texts and the lengths of its own and all earlier elements.
            let at = start + byte + 8 * (element + 1);
            Fault::new(at, format!("element {element}: a string is not valid UTF-8"))
        })
    }
}

fn truth(byte: u8, at: usize) -> Result<bool, Fault> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Fault::new(at, format!("a bool is {byte}, it must be 0 or 1"))),
    }
}

fn not_utf8(start: usize, what: &str, e: std::str::Utf8Error) -> Fault {
    Fault::new(start + e.valid_up_to(), format!("{what} is not valid UTF-8"))
}
