//! The values in a pickle of a state dict, and the meaning of its few known names.

use crate::ElementType;

/// A value. Those that hold others point into [`super::Heap`]: dropping a million nested lists is then no
/// recursion.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::pytorch) enum Value<'a> {
    /// None, floats, integers of more than 64 bits, bytes, devices: values of a state dict that are not needed.
    Other,
    Bool(bool),
    Int(i64),
    /// A larger integer, little-endian two's complement.
    Long(&'a [u8]),
    Text(&'a str),
    Global(Global<'a>),
    /// Values `start .. start + length` of the heap's tuples.
    Tuple {
        start: u32,
        length: u32,
    },
    /// A list or a set.
    List(u32),
    Dict(u32),
    Storage(u32),
    Tensor(u32),
}

/// A name that state dicts may import. Nothing is imported: this reader implements each one itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::pytorch) enum Global<'a> {
    OrderedDict,
    Set,
    Size,
    Device,
    /// Turns text into bytes, in pickles of old protocols.
    Encode,
    RebuildTensor,
    RebuildTensorV2,
    RebuildTensorV3,
    RebuildParameter,
    /// The type of a storage: of numbers of this type, or of bytes.
    StorageType(Numbers<'a>),
    Dtype(Numbers<'a>),
}

/// The numbers in a storage.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::pytorch) enum Numbers<'a> {
    Of(ElementType),
    /// Bytes whose type the tensor states.
    Untyped,
    /// Numbers of a type that quern does not read: torch's name, and bytes of a number.
    Unknown(&'a str, usize),
}

/// Storage types, by the beginnings of their names, and dtypes, where quern has that type.
const TYPES: [(&str, &[&str], ElementType); 15] = [
    ("Float", &["float32", "float"], ElementType::F32),
    ("Half", &["float16", "half"], ElementType::F16),
    ("BFloat16", &["bfloat16"], ElementType::BF16),
    ("Double", &["float64", "double"], ElementType::F64),
    ("Long", &["int64", "long"], ElementType::I64),
    ("Int", &["int32", "int"], ElementType::I32),
    ("Short", &["int16", "short"], ElementType::I16),
    ("Char", &["int8"], ElementType::I8),
    ("Byte", &["uint8"], ElementType::U8),
    ("Bool", &["bool"], ElementType::Bool),
    ("", &["uint16"], ElementType::U16),
    ("", &["uint32"], ElementType::U32),
    ("", &["uint64"], ElementType::U64),
    ("", &["float8_e4m3fn"], ElementType::F8E4M3),
    ("", &["float8_e5m2"], ElementType::F8E5M2),
];

/// Storage types and dtypes that torch has and quern has not, and bytes of a number.
const UNKNOWN: [(&str, usize); 19] = [
    ("ComplexFloat", 8),
    ("ComplexDouble", 16),
    ("QInt8", 1),
    ("QUInt8", 1),
    ("QInt32", 4),
    ("QUInt4x2", 1),
    ("QUInt2x4", 1),
    ("complex32", 4),
    ("complex64", 8),
    ("complex128", 16),
    ("float8_e4m3fnuz", 1),
    ("float8_e5m2fnuz", 1),
    ("float8_e8m0fnu", 1),
    ("float4_e2m1fn_x2", 1),
    ("qint8", 1),
    ("quint8", 1),
    ("qint32", 4),
    ("quint4x2", 1),
    ("quint2x4", 1),
];

impl<'a> Global<'a> {
    /// The meaning of this name; `None` if it is not one that state dicts import.
    pub fn of(module: &'a str, name: &'a str) -> Option<Self> {
        Some(match (module, name) {
            ("collections", "OrderedDict") => Self::OrderedDict,
            ("builtins" | "__builtin__", "set") => Self::Set,
            ("torch", "Size") => Self::Size,
            ("torch", "device") => Self::Device,
            ("_codecs", "encode") => Self::Encode,
            ("torch._utils", "_rebuild_tensor") => Self::RebuildTensor,
            ("torch._utils", "_rebuild_tensor_v2") => Self::RebuildTensorV2,
            ("torch._utils", "_rebuild_tensor_v3") => Self::RebuildTensorV3,
            ("torch._utils", "_rebuild_parameter") => Self::RebuildParameter,
            ("torch" | "torch.cuda" | "torch.storage", _) if name.ends_with("Storage") => {
                Self::StorageType(Self::storage(name)?)
            }
            ("torch", _) => Self::Dtype(Self::dtype(name)?),
            _ => return None,
        })
    }

    fn storage(name: &'a str) -> Option<Numbers<'a>> {
        let kind = name.strip_suffix("Storage")?.trim_start_matches('_');
        if kind == "Untyped" {
            return Some(Numbers::Untyped);
        }
        let known = TYPES.iter().find(|(storage, ..)| *storage == kind && !kind.is_empty());
        match known {
            Some((.., element_type)) => Some(Numbers::Of(*element_type)),
            None => Self::unknown(kind),
        }
    }

    fn dtype(name: &'a str) -> Option<Numbers<'a>> {
        match TYPES.iter().find(|(_, dtypes, _)| dtypes.contains(&name)) {
            Some((.., element_type)) => Some(Numbers::Of(*element_type)),
            None => Self::unknown(name),
        }
    }

    fn unknown(name: &'a str) -> Option<Numbers<'a>> {
        UNKNOWN.iter().find(|(n, _)| *n == name).map(|&(_, bytes)| Numbers::Unknown(name, bytes))
    }
}

/// A storage as the pickle names it.
#[derive(Clone, Copy, Debug)]
pub(in crate::pytorch) struct Storage<'a> {
    pub key: &'a str,
    pub numbers: Numbers<'a>,
    /// Numbers, or bytes where untyped, of the whole storage.
    pub count: u64,
    /// Where in it a view of it begins, and how many numbers that has (the old format only).
    pub view: Option<(u64, u64)>,
}

/// A tensor as the pickle describes it; nothing of it is checked yet.
#[derive(Clone, Copy, Debug)]
pub(in crate::pytorch) struct RawTensor<'a> {
    pub storage: u32,
    /// What its numbers are, where the storage does not say.
    pub dtype: Option<Numbers<'a>>,
    /// Number of the storage where it begins.
    pub offset: i64,
    /// Tuples of integers.
    pub shape: Value<'a>,
    pub strides: Value<'a>,
    /// It is to be conjugated or negated.
    pub marked: bool,
}
