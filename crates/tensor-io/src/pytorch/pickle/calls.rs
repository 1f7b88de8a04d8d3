//! The few names that a state dict imports, and what they become here: nothing is imported or run.

use super::cost;
use super::machine::{Machine, Result, bad, unsupported};
use super::value::{Global, Numbers, RawTensor, Storage, Value};

impl<'a> Machine<'a, '_> {
    pub(super) fn global(&mut self, module: &'a str, name: &'a str) -> Result<()> {
        if let Some(global) = Global::of(module, name) {
            return self.push(Value::Global(global));
        }
        let brief = |text: &str| -> String { text.chars().take(80).collect() };
        let full = format!("{:?}", brief(&format!("{module}.{name}")));
        let remedy = "if you trust the file, load it in Python and save its state_dict() as safetensors";
        let what = match module.split('.').next() {
            Some("torch" | "numpy" | "transformers" | "pytorch_lightning" | "argparse" | "collections") => {
                format!(
                    "the pickle imports {full}, which no state dict needs and which was not run: it is a complete object or \
                     the state of a training; {remedy}"
                )
            }
            _ => format!(
                "the pickle imports {full}, which no state dict needs and which was not run: the file may be \
                 malicious; {remedy}"
            ),
        };
        unsupported(what)
    }

    /// A storage: `("storage", type, key, location, count)`, in the old format with a view.
    pub(super) fn persistent(&mut self) -> Result<()> {
        let id = self.pop()?;
        let (kind, key, count, view) = match *self.heap.items(id) {
            [Value::Text("storage"), Value::Global(kind), key, Value::Text(_), Value::Int(count)] => {
                (kind, key, count, Value::Other)
            }
            [Value::Text("storage"), Value::Global(kind), key, Value::Text(_), Value::Int(count), view] => {
                (kind, key, count, view)
            }
            _ => {
                return unsupported(
                    "the pickle refers to something that is no storage: only state dicts are read; in Python, save \
                     model.state_dict()",
                );
            }
        };
        let (Global::StorageType(numbers), Value::Text(key)) = (kind, key) else {
            return bad("a storage without a type or key");
        };
        let Ok(count) = u64::try_from(count) else {
            return bad(format!("a storage of {count} values"));
        };
        let view = match (view, self.heap.items(view)) {
            (Value::Other, _) => None,
            (_, &[_, Value::Int(offset), Value::Int(count)]) => {
                match (u64::try_from(offset), u64::try_from(count)) {
                    (Ok(offset), Ok(count)) => Some((offset, count)),
                    _ => return bad(format!("a view of {count} values at {offset} of a storage")),
                }
            }
            _ => return bad("a view of a storage that is none"),
        };
        let Ok(index) = u32::try_from(self.heap.storages.len()) else { return bad("too many storages") };
        self.pay(cost::STORAGE)?;
        self.heap.storages.push(Storage { key, numbers, count, view });
        self.push(Value::Storage(index))
    }

    /// What calling a known name gives.
    pub(super) fn call(&mut self, callable: Value<'a>, arguments: Value<'a>) -> Result<Value<'a>> {
        let Value::Global(global) = callable else { return bad("something that is no name is called") };
        if !matches!(arguments, Value::Tuple { .. }) {
            return bad("a call whose arguments are no tuple");
        }
        let none = Value::Other;
        match (global, self.heap.items(arguments)) {
            (Global::OrderedDict, []) => self.dict(Vec::new()),
            (Global::OrderedDict, &[Value::List(items)]) => {
                // The list is used up, so that the same one cannot make many dicts.
                let items = std::mem::take(&mut self.heap.lists[items as usize]);
                let entry = |pair: Value<'a>| match *self.heap.items(pair) {
                    [key, value] => Ok((key, value)),
                    _ => bad("an ordered dict of something that is no pair"),
                };
                let entries = items.into_iter().map(entry).collect::<Result<_>>()?;
                self.dict(entries)
            }
            (Global::Set | Global::Size, &[items]) => Ok(items),
            (Global::Device | Global::Encode, _) => Ok(none),
            (Global::RebuildParameter, &[tensor @ Value::Tensor(_), ..]) => Ok(tensor),
            (Global::RebuildTensor, &[storage, offset, shape, strides]) => {
                self.tensor(storage, offset, shape, strides, None, none)
            }
            (Global::RebuildTensorV2, &[storage, offset, shape, strides, _grad, _hooks]) => {
                self.tensor(storage, offset, shape, strides, None, none)
            }
            (Global::RebuildTensorV2, &[storage, offset, shape, strides, _grad, _hooks, marks]) => {
                self.tensor(storage, offset, shape, strides, None, marks)
            }
            (Global::RebuildTensorV3, &[storage, offset, shape, strides, _grad, _hooks, dtype]) => {
                self.tensor(storage, offset, shape, strides, Some(dtype), none)
            }
            (Global::RebuildTensorV3, &[storage, offset, shape, strides, _grad, _hooks, dtype, marks]) => {
                self.tensor(storage, offset, shape, strides, Some(dtype), marks)
            }
            (global, arguments) => bad(format!("{global:?} is called with {} arguments", arguments.len())),
        }
    }

    fn tensor(
        &mut self,
        storage: Value<'a>,
        offset: Value<'a>,
        shape: Value<'a>,
        strides: Value<'a>,
        dtype: Option<Value<'a>>,
        marks: Value<'a>,
    ) -> Result<Value<'a>> {
        let (Value::Storage(storage), Value::Int(offset)) = (storage, offset) else {
            return bad("a tensor without a storage or an offset");
        };
        let dtype: Option<Numbers> = match dtype {
            None => None,
            Some(Value::Global(Global::Dtype(numbers))) => Some(numbers),
            Some(_) => return bad("a tensor whose dtype is none"),
        };
        let Ok(index) = u32::try_from(self.heap.tensors.len()) else { return bad("too many tensors") };
        let marked = self.heap.entries(marks).iter().any(|(_, on)| *on != Value::Bool(false));
        self.pay(cost::TENSOR)?;
        self.heap.tensors.push(RawTensor { storage, dtype, offset, shape, strides, marked });
        Ok(Value::Tensor(index))
    }
}
