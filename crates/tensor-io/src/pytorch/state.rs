//! Converts the value of a pickle to named tensors: finds the dict of the model, and the place of its numbers.
//!
//! A state dict is a dict of names to tensors. Training frameworks put it into a dict of their own, under one of
//! [`WRAPPERS`]; its other contents (optimizer, epoch) are ignored. Dicts and lists of tensors within it get names
//! joined with dots.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::archive::Place;
use super::pickle::{Heap, Loaded, Numbers, RawTensor, Storage, Value};
use crate::budget::{Budget, MOST_TENSORS};
use crate::plan::{bad_shape, tensor_bytes};
use crate::strided::Strided;
use crate::{ElementType, Error, Result, TensorInfo};

/// Keys under which a state dict is stored within another dict; the first that is present counts.
const WRAPPERS: [&str; 4] = ["state_dict", "model_state_dict", "model", "module"];

/// The most levels of dicts in dicts.
const MOST_LEVELS: usize = 32;

/// What a container costs that was gone through.
const CONTAINER: u64 = 48;

/// The most dimensions of a tensor. (torch has up to 64; no model has more than 5.)
const MOST_DIMENSIONS: usize = 8;

/// A tensor, and how it is gathered if its numbers are not contiguous.
pub(super) type Read = (TensorInfo, Option<Box<Strided>>);

/// The tensors of the state dict in `loaded`, from the file `path` of `file_bytes` bytes, which is the model's
/// `file`-th. `place` gives the place of a storage.
pub(super) fn tensors<'a>(
    path: &Path,
    loaded: &Loaded<'a>,
    pickle_bytes: usize,
    (file, file_bytes): (usize, usize),
    budget: &mut Budget,
    mut place: impl FnMut(&Storage<'a>) -> Result<Place>,
) -> Result<Vec<Read>> {
    let heap = &loaded.heap;
    let mut search = Search {
        path,
        heap,
        names_left: pickle_bytes.saturating_mul(4),
        budget,
        found: Vec::new(),
        seen: HashMap::new(),
    };
    let Value::Dict(_) = loaded.root else {
        let what = "holds no state dict, a dict of names to tensors; in Python, save model.state_dict()";
        return Err(Error::unsupported(path, what));
    };
    search.dict(unwrapped(heap, loaded.root), "", 0)?;
    if search.found.is_empty() {
        return Err(Error::unsupported(path, "the state dict holds no tensors: no model"));
    }
    let mut names = HashSet::new();
    if let Some((name, _)) = search.found.iter().find(|(name, _)| !names.insert(name.as_str())) {
        return Err(Error::malformed(path, format!("the state dict has {name:?} twice")));
    }
    // Copies are made on demand; all of them together are no larger than the file.
    let mut copies_left = file_bytes;
    let read = |(name, tensor): (String, u32)| {
        let raw = heap.tensor(tensor);
        let info = TensorInfo {
            name,
            element_type: ElementType::U8,
            shape: Vec::new(),
            file,
            offset: 0,
            bytes: 0,
            strided: None,
        };
        let fault = |e: Error, name: &str| if e.tensor.is_some() { e } else { e.with_tensor(name) };
        let storage = heap.storage(raw.storage);
        let place = place(storage).map_err(|e| fault(e, &info.name))?;
        let name = info.name.clone();
        let read = Layout { path, heap, raw, storage, place }.read(info, &mut copies_left);
        read.map_err(|e| fault(e, &name))
    };
    search.found.into_iter().map(read).collect()
}

/// The dict within `root` that is the state dict.
fn unwrapped<'a>(heap: &Heap<'a>, root: Value<'a>) -> Value<'a> {
    let mut state = root;
    for _ in 0..MOST_LEVELS {
        let value = |key: &&str| {
            let mut entries = heap.entries(state).iter();
            entries.find(|(k, v)| *k == Value::Text(key) && matches!(v, Value::Dict(_))).map(|(_, v)| *v)
        };
        match WRAPPERS.iter().find_map(value) {
            Some(inner) => state = inner,
            None => break,
        }
    }
    state
}

/// The search for tensors.
struct Search<'a, 'h> {
    path: &'h Path,
    heap: &'h Heap<'a>,
    /// Bytes that names may still take: joined ones can be longer than what the pickle holds.
    names_left: usize,
    budget: &'h mut Budget,
    found: Vec<(String, u32)>,
    /// Containers that were gone through, and whether they hold tensors. Any of them may be in many places, or
    /// within itself.
    seen: HashMap<(u8, u32), bool>,
}

impl<'a> Search<'a, '_> {
    fn dict(&mut self, dict: Value<'a>, prefix: &str, level: usize) -> Result<()> {
        for &(key, value) in self.heap.entries(dict) {
            match key {
                Value::Text(key) => self.entry(key, value, prefix, level)?,
                Value::Int(key) => self.entry(&key.to_string(), value, prefix, level)?,
                _ if matches!(value, Value::Tensor(_)) => {
                    return Err(Error::malformed(self.path, "a tensor in the state dict has no name"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn entry(&mut self, key: &str, value: Value<'a>, prefix: &str, level: usize) -> Result<()> {
        let container = match value {
            Value::Tensor(tensor) => {
                let name = self.name(prefix, key)?;
                if name.is_empty() {
                    return Err(Error::malformed(self.path, "a tensor in the state dict has an empty name"));
                }
                if self.found.len() as u64 >= MOST_TENSORS {
                    return Err(super::too_many(self.path));
                }
                self.budget.tensor(&name).map_err(|_| super::exceeded(self.path, 0))?;
                self.found.push((name, tensor));
                return Ok(());
            }
            Value::Dict(dict) => (0, dict),
            Value::List(list) => (1, list),
            Value::Tuple { start, length } if length > 0 => (2, start),
            _ => return Ok(()),
        };
        self.budget.spend(CONTAINER).map_err(|_| super::exceeded(self.path, 0))?;
        match self.seen.insert(container, false) {
            None => {}
            Some(false) => return Ok(()),
            Some(true) => {
                let name: String = format!("{prefix}{key}").chars().take(80).collect();
                let what =
                    format!("the state dict holds the same dict or list of tensors twice, again as {name:?}");
                return Err(Error::unsupported(self.path, what));
            }
        }
        if level >= MOST_LEVELS {
            let what = format!("the state dict nests more than {MOST_LEVELS} levels of dicts or lists");
            return Err(Error::unsupported(self.path, what));
        }
        let before = self.found.len();
        let prefix = self.name(prefix, key)? + ".";
        match value {
            Value::Dict(_) => self.dict(value, &prefix, level + 1)?,
            _ => {
                for (i, item) in self.heap.items(value).iter().enumerate() {
                    if !matches!(item, Value::Other | Value::Int(_) | Value::Bool(_) | Value::Text(_)) {
                        self.entry(&i.to_string(), *item, &prefix, level + 1)?;
                    }
                }
            }
        }
        self.seen.insert(container, self.found.len() > before);
        Ok(())
    }

    fn name(&mut self, prefix: &str, key: &str) -> Result<String> {
        match self.names_left.checked_sub(prefix.len() + key.len()) {
            Some(left) => {
                self.names_left = left;
                Ok(format!("{prefix}{key}"))
            }
            None => {
                let what =
                    "the names in the state dict are longer than its pickle: nested dicts of long names";
                Err(Error::unsupported(self.path, what))
            }
        }
    }
}

/// A tensor and the storage it is a view of.
struct Layout<'a, 'h> {
    path: &'h Path,
    heap: &'h Heap<'a>,
    raw: &'h RawTensor<'a>,
    storage: &'h Storage<'a>,
    place: Place,
}

impl Layout<'_, '_> {
    fn malformed(&self, what: impl Into<String>) -> Error {
        Error::malformed(self.path, what)
    }

    fn unsupported(&self, what: impl Into<String>) -> Error {
        Error::unsupported(self.path, what)
    }

    fn read(&self, info: TensorInfo, copies_left: &mut usize) -> Result<Read> {
        if self.raw.marked {
            return Err(self.unsupported(
                "is stored to be conjugated or negated when read; in Python, save tensor.resolve_neg()",
            ));
        }
        let element_type = self.element_type()?;
        let size = element_type.block_bytes();
        let (base, count) = self.extent(size)?;
        let (shape, strides) = self.dimensions()?;
        let Some(bytes) = tensor_bytes(element_type, &shape) else {
            return Err(self.malformed(bad_shape(element_type, &shape)));
        };
        let offset = usize::try_from(self.raw.offset).ok().filter(|&offset| offset <= count);
        let Some(offset) = offset else {
            let what = format!("begins at value {} of a storage of {count}", self.raw.offset);
            return Err(self.malformed(what));
        };
        let values = bytes / size;
        if values > 0 {
            let reach =
                |sum: usize, (n, stride): (&usize, &usize)| sum.checked_add((n - 1).checked_mul(*stride)?);
            let last = shape.iter().zip(&strides).try_fold(offset, reach);
            if last.is_none_or(|last| last >= count) {
                let what = format!(
                    "of shape {shape:?} and strides {strides:?} reaches beyond its storage of {count} values, from \
                     value {offset} on"
                );
                return Err(self.malformed(what));
            }
        }
        let start = self.place.offset + base + offset * size;
        let info = TensorInfo { element_type, offset: start as u64, bytes, ..info };
        if values == 0 || contiguous(&shape, &strides) {
            return Ok((TensorInfo { shape, ..info }, None));
        }
        // A view that shows numbers more than once may be any number of times larger than the file.
        let left = copies_left.checked_sub(bytes).filter(|_| values <= count);
        let Some(left) = left else {
            let what = format!(
                "is an expanded view: {values} values out of a storage of {count}; in Python, save \
                 tensor.contiguous()"
            );
            return Err(self.unsupported(what));
        };
        *copies_left = left;
        let strided = Strided::new(info.file, start, size, shape.clone(), strides);
        Ok((TensorInfo { shape, ..info }, Some(Box::new(strided))))
    }

    fn element_type(&self) -> Result<ElementType> {
        let unknown =
            |name: &str| self.unsupported(format!("its numbers are {name:?}, which quern does not read"));
        match (self.storage.numbers, self.raw.dtype) {
            (Numbers::Unknown(name, _), _) | (_, Some(Numbers::Unknown(name, _))) => Err(unknown(name)),
            (Numbers::Of(of), None) => Ok(of),
            (Numbers::Untyped, None | Some(Numbers::Untyped)) => Ok(ElementType::U8),
            (Numbers::Untyped, Some(Numbers::Of(of))) => Ok(of),
            (Numbers::Of(of), Some(Numbers::Of(dtype))) if of == dtype => Ok(of),
            (of, dtype) => Err(self.malformed(format!("its storage holds {of:?}, its dtype says {dtype:?}"))),
        }
    }

    /// Where the numbers begin in the storage's bytes, and how many there are.
    fn extent(&self, size: usize) -> Result<(usize, usize)> {
        let Storage { key, numbers, count, view } = *self.storage;
        let unit = match numbers {
            Numbers::Of(of) => of.block_bytes(),
            _ => 1,
        };
        let key: String = key.chars().take(40).collect();
        if count.checked_mul(unit as u64) != Some(self.place.bytes as u64) {
            let what = format!(
                "its storage {key:?} has {count} numbers of {unit} bytes, but the file has {} bytes of it",
                self.place.bytes
            );
            return Err(self.malformed(what).at(self.place.offset as u64));
        }
        let Some((first, length)) = view else { return Ok((0, self.place.bytes / size)) };
        match first.checked_add(length) {
            Some(end) if end <= count => Ok((first as usize * unit, length as usize * unit / size)),
            _ => Err(self.malformed(format!(
                "is a view of {length} numbers at {first} of the storage {key:?}, which has {count}"
            ))),
        }
    }

    fn dimensions(&self) -> Result<(Vec<usize>, Vec<usize>)> {
        let [shape, strides] = [self.raw.shape, self.raw.strides].map(|v| self.heap.items(v));
        if shape.len() > MOST_DIMENSIONS {
            return Err(self.unsupported(format!("has {} dimensions", shape.len())));
        }
        let number = |value: &Value| match value {
            Value::Int(n) => usize::try_from(*n).ok().filter(|&n| n <= isize::MAX as usize),
            _ => None,
        };
        let numbers = |values: &[Value]| values.iter().map(number).collect::<Option<Vec<_>>>();
        match (numbers(shape), numbers(strides)) {
            (Some(shape), Some(strides)) if shape.len() == strides.len() => Ok((shape, strides)),
            _ => Err(self.malformed("its shape and strides are not as many numbers from 0 on")),
        }
    }
}

/// Whether the numbers are contiguous. Strides of dimensions of size 1 do not matter.
fn contiguous(shape: &[usize], strides: &[usize]) -> bool {
    let mut expected = 1;
    shape.iter().zip(strides).rev().all(|(&n, &stride)| {
        let fits = n == 1 || stride == expected;
        expected *= n;
        fits
    })
}
