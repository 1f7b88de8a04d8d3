//! The stack machine: opcodes, the stack, the memo. What known names do is in [`super::calls`].

use std::collections::HashMap;

use super::value::Value;
use super::{Heap, Loaded, MOST_STACK, cost};
use crate::budget::{Budget, Exceeded};

/// Why a pickle is refused, and where.
pub(super) struct Fault {
    pub what: String,
    pub at: usize,
    /// It may be valid, but needs something that is not supported.
    pub unsupported: bool,
    /// It takes more memory than the file justifies.
    pub exceeded: bool,
}

pub(super) type Result<T, E = Complaint> = std::result::Result<T, E>;

/// A fault whose place the main loop knows.
pub(super) struct Complaint {
    what: String,
    unsupported: bool,
    exceeded: bool,
}

impl From<Exceeded> for Complaint {
    fn from(_: Exceeded) -> Self {
        Self { what: Exceeded::WHAT.to_owned(), unsupported: false, exceeded: true }
    }
}

pub(super) fn bad<T>(what: impl Into<String>) -> Result<T> {
    Err(Complaint { what: what.into(), unsupported: false, exceeded: false })
}

pub(super) fn unsupported<T>(what: impl Into<String>) -> Result<T> {
    Err(Complaint { what: what.into(), unsupported: true, exceeded: false })
}

pub(super) struct Machine<'a, 'b> {
    data: &'a [u8],
    at: usize,
    stack: Vec<Value<'a>>,
    /// Heights of the stack at its marks.
    marks: Vec<usize>,
    memo: HashMap<u32, Value<'a>>,
    pub(super) heap: Heap<'a>,
    /// Pays for every value that is kept.
    budget: &'b mut Budget,
    /// The highest that the stack was: what has been paid for.
    paid: usize,
}

impl<'a, 'b> Machine<'a, 'b> {
    pub fn new(data: &'a [u8], at: usize, budget: &'b mut Budget) -> Self {
        let heap = Heap::default();
        Self { data, at, stack: Vec::new(), marks: Vec::new(), memo: HashMap::new(), heap, budget, paid: 0 }
    }

    pub fn run(mut self) -> Result<Loaded<'a>, Fault> {
        loop {
            let at = self.at;
            match self.step() {
                Ok(None) => {}
                Ok(Some(root)) => return Ok(Loaded { root, heap: self.heap, end: self.at }),
                Err(Complaint { what, unsupported, exceeded }) => {
                    return Err(Fault { what, at, unsupported, exceeded });
                }
            }
        }
    }

    /// Runs one opcode. Returns the pickle's value when it has stopped.
    fn step(&mut self) -> Result<Option<Value<'a>>> {
        let [opcode] = self.array()?;
        match opcode {
            0x80 => match self.array()? {
                [2..=5] => {}
                [other] => {
                    return unsupported(format!("a pickle of protocol {other}; torch.save writes 2 to 5"));
                }
            },
            0x95 => {
                let length = u64::from_le_bytes(self.array()?);
                if length > (self.data.len() - self.at) as u64 {
                    return bad(format!("a frame of {length} bytes reaches beyond the end"));
                }
            }
            b'.' => {
                let root = self.pop()?;
                return match self.stack.is_empty() && self.marks.is_empty() {
                    true => Ok(Some(root)),
                    false => bad("it ends with values left over"),
                };
            }
            b'(' => {
                if self.marks.len() >= MOST_STACK {
                    return bad("too many marks");
                }
                self.pay(2 * size_of::<usize>() as u64)?;
                self.marks.push(self.stack.len());
            }
            b'0' => drop(self.pop()?),
            b'1' => drop(self.collect()?),
            b'2' => {
                let top = self.top()?;
                self.push(top)?;
            }
            b'N' => self.push(Value::Other)?,
            0x88 | 0x89 => self.push(Value::Bool(opcode == 0x88))?,
            b'G' => {
                let _: [u8; 8] = self.array()?;
                self.push(Value::Other)?;
            }
            b'J' | b'K' | b'M' | 0x8a | 0x8b => self.integer(opcode)?,
            b'X' | 0x8c | 0x8d | b'U' | b'T' => self.text(opcode)?,
            b'B' | b'C' | 0x8e | 0x96 => {
                let length = self.length(opcode)?;
                self.take(length)?;
                self.push(Value::Other)?;
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.global(module, name)?;
            }
            0x93 => match (self.pop()?, self.pop()?) {
                (Value::Text(name), Value::Text(module)) => self.global(module, name)?,
                _ => return bad("a name that is no text"),
            },
            b'i' => {
                let (module, name) = (self.line()?, self.line()?);
                return self.global(module, name).and_then(|()| unknown_opcode(opcode));
            }
            b'Q' => self.persistent()?,
            b')' => self.push(Value::Tuple { start: 0, length: 0 })?,
            b't' | 0x85..=0x87 => self.tuple(opcode)?,
            b']' | 0x8f => self.new_list(Vec::new())?,
            b'l' | 0x91 => {
                let items = self.collect()?;
                self.new_list(items)?;
            }
            b'a' => {
                let item = self.pop()?;
                self.extend(&[item])?;
            }
            b'e' | 0x90 => {
                let items = self.collect()?;
                self.extend(&items)?;
            }
            b'}' => self.new_dict(Vec::new())?,
            b'd' => {
                let entries = self.collect_entries()?;
                self.new_dict(entries)?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.insert(&[(key, value)])?;
            }
            b'u' => {
                let entries = self.collect_entries()?;
                self.insert(&entries)?;
            }
            b'q' => {
                let [index] = self.array()?;
                self.remember(index.into())?;
            }
            b'r' => {
                let index = u32::from_le_bytes(self.array()?);
                self.remember(index)?;
            }
            0x94 => match u32::try_from(self.memo.len()) {
                Ok(index) => self.remember(index)?,
                Err(_) => return bad("its memo is too large"),
            },
            b'h' => {
                let [index] = self.array()?;
                self.recall(index.into())?;
            }
            b'j' => {
                let index = u32::from_le_bytes(self.array()?);
                self.recall(index)?;
            }
            b'R' | 0x81 => {
                let (arguments, callable) = (self.pop()?, self.pop()?);
                let value = self.call(callable, arguments)?;
                self.push(value)?;
            }
            b'b' => {
                // An ordered dict's attributes (`_metadata`: versions of modules) are nothing a model needs.
                let _state = self.pop()?;
                if !matches!(self.top()?, Value::Dict(_)) {
                    return unsupported(
                        "a state is set on something that is no dict, which state dicts never need",
                    );
                }
            }
            _ => return unknown_opcode(opcode),
        }
        Ok(None)
    }

    // Bytes of the pickle.

    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        match self.data[self.at..].split_at_checked(count) {
            Some((head, _)) => {
                self.at += count;
                // The map's pages are memory too once they are touched.
                self.pay(count as u64)?;
                Ok(head)
            }
            None => bad("it is cut short; download the file again"),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let bytes = self.take(N)?;
        bytes.try_into().map_or_else(|_| bad("it is cut short"), Ok)
    }

    fn length(&mut self, opcode: u8) -> Result<usize> {
        let length = match opcode {
            b'U' | b'C' | 0x8a | 0x8c => self.array::<1>()?[0].into(),
            0x8d | 0x8e | 0x96 => u64::from_le_bytes(self.array()?),
            _ => u32::from_le_bytes(self.array()?).into(),
        };
        usize::try_from(length).or_else(|_| bad(format!("a length of {length}")))
    }

    fn line(&mut self) -> Result<&'a str> {
        // Names are short: no search to the end of the file.
        let rest = &self.data[self.at..];
        let Some(length) = rest.iter().take(256).position(|b| *b == b'\n') else {
            return bad("a name without an end");
        };
        let line = &rest[..length];
        self.at += length + 1;
        std::str::from_utf8(line).or_else(|_| bad("a name that is not UTF-8"))
    }

    fn integer(&mut self, opcode: u8) -> Result<()> {
        let value = match opcode {
            b'J' => Value::Int(i32::from_le_bytes(self.array()?).into()),
            b'K' => Value::Int(self.array::<1>()?[0].into()),
            b'M' => Value::Int(u16::from_le_bytes(self.array()?).into()),
            _ => {
                let length = self.length(opcode)?;
                let bytes = self.take(length)?;
                let negative = bytes.last().is_some_and(|b| *b >= 128);
                let mut whole = [if negative { 255 } else { 0 }; 8];
                match whole.get_mut(..length) {
                    Some(low) => {
                        low.copy_from_slice(bytes);
                        Value::Int(i64::from_le_bytes(whole))
                    }
                    None => Value::Long(bytes),
                }
            }
        };
        self.push(value)
    }

    fn text(&mut self, opcode: u8) -> Result<()> {
        let length = self.length(opcode)?;
        let bytes = self.take(length)?;
        // Python 2 wrote text as bytes; what is not UTF-8 can be no name.
        match std::str::from_utf8(bytes) {
            Ok(text) => self.push(Value::Text(text)),
            Err(_) if matches!(opcode, b'U' | b'T') => self.push(Value::Other),
            Err(_) => bad("a text that is not UTF-8"),
        }
    }

    // The stack.

    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    pub(super) fn push(&mut self, value: Value<'a>) -> Result<()> {
        if self.stack.len() >= MOST_STACK {
            return bad("too many values on its stack");
        }
        if self.stack.len() >= self.paid {
            self.pay(cost::VALUE)?;
            self.paid += 1;
        }
        self.stack.push(value);
        Ok(())
    }

    pub(super) fn pay(&mut self, bytes: u64) -> Result<()> {
        Ok(self.budget.spend(bytes)?)
    }

    fn top(&self) -> Result<Value<'a>> {
        match self.stack[self.floor()..].last() {
            Some(top) => Ok(*top),
            None => bad("a value is missing on its stack"),
        }
    }

    pub(super) fn pop(&mut self) -> Result<Value<'a>> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    /// The values above the last mark.
    fn collect(&mut self) -> Result<Vec<Value<'a>>> {
        match self.marks.pop() {
            Some(mark) => Ok(self.stack.drain(mark..).collect()),
            None => bad("a mark is missing on its stack"),
        }
    }

    fn collect_entries(&mut self) -> Result<Vec<(Value<'a>, Value<'a>)>> {
        let items = self.collect()?;
        match items.as_chunks::<2>() {
            (pairs, []) => Ok(pairs.iter().map(|&[key, value]| (key, value)).collect()),
            _ => bad("a key without a value"),
        }
    }

    fn remember(&mut self, index: u32) -> Result<()> {
        let top = self.top()?;
        if !self.memo.contains_key(&index) {
            self.pay(cost::MEMO)?;
        }
        self.memo.insert(index, top);
        Ok(())
    }

    fn recall(&mut self, index: u32) -> Result<()> {
        match self.memo.get(&index) {
            Some(value) => self.push(*value),
            None => bad(format!("it reads entry {index} of its memo, which was never stored")),
        }
    }

    // Values.

    fn tuple(&mut self, opcode: u8) -> Result<()> {
        let start = match opcode {
            b't' => self.marks.pop().map_or_else(|| bad("a mark is missing on its stack"), Ok)?,
            _ => match self.stack.len().checked_sub(usize::from(opcode - 0x84)) {
                Some(start) if start >= self.floor() => start,
                _ => return bad("a value is missing on its stack"),
            },
        };
        let place =
            u32::try_from(self.heap.tuples.len()).ok().zip(u32::try_from(self.stack.len() - start).ok());
        let Some((first, length)) = place else { return bad("too many values in tuples") };
        self.pay(cost::VALUE * u64::from(length))?;
        self.heap.tuples.extend(self.stack.drain(start..));
        self.push(Value::Tuple { start: first, length })
    }

    fn new_list(&mut self, items: Vec<Value<'a>>) -> Result<()> {
        let Ok(index) = u32::try_from(self.heap.lists.len()) else { return bad("too many lists") };
        self.pay(cost::CONTAINER + cost::VALUE * items.len() as u64)?;
        self.heap.lists.push(items);
        self.push(Value::List(index))
    }

    fn new_dict(&mut self, entries: Vec<(Value<'a>, Value<'a>)>) -> Result<()> {
        let value = self.dict(entries)?;
        self.push(value)
    }

    pub(super) fn dict(&mut self, entries: Vec<(Value<'a>, Value<'a>)>) -> Result<Value<'a>> {
        let Ok(index) = u32::try_from(self.heap.dicts.len()) else { return bad("too many dicts") };
        self.pay(cost::CONTAINER + 2 * cost::VALUE * entries.len() as u64)?;
        self.heap.dicts.push(entries);
        Ok(Value::Dict(index))
    }

    fn extend(&mut self, items: &[Value<'a>]) -> Result<()> {
        self.pay(cost::VALUE * items.len() as u64)?;
        match self.top()? {
            Value::List(list) => {
                self.heap.lists[list as usize].extend_from_slice(items);
                Ok(())
            }
            _ => bad("items are added to something that is no list"),
        }
    }

    fn insert(&mut self, entries: &[(Value<'a>, Value<'a>)]) -> Result<()> {
        self.pay(2 * cost::VALUE * entries.len() as u64)?;
        match self.top()? {
            Value::Dict(dict) => {
                self.heap.dicts[dict as usize].extend_from_slice(entries);
                Ok(())
            }
            _ => bad("entries are added to something that is no dict"),
        }
    }
}

fn unknown_opcode<T>(opcode: u8) -> Result<T> {
    unsupported(format!(
        "opcode {opcode:#04x} ({:?}), which pickles of state dicts do not use: not a file of torch.save, or a \
         damaged one",
        char::from(opcode)
    ))
}
