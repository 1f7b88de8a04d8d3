//! The schemes that a model may be had in, and how quern is asked for them.

use quern_model::FileType;
use quern_quantize::bitsandbytes::Kind;
use quern_tensor_io::ElementType;

/// GGUF types from many bits to few. Those of at most 3.5 bits are made with an importance matrix.
const GGUF: [(FileType, bool); 17] = [
    (FileType::F16, false),
    (FileType::Q8_0, false),
    (FileType::Q6K, false),
    (FileType::Q5KM, false),
    (FileType::Q5KS, false),
    (FileType::Q4KM, false),
    (FileType::Q4KM, true),
    (FileType::Q4KS, false),
    (FileType::Q4_0, false),
    (FileType::IQ4XS, true),
    (FileType::Q3KL, true),
    (FileType::Q3KM, true),
    (FileType::IQ3M, true),
    (FileType::IQ3XXS, true),
    (FileType::Q2K, true),
    (FileType::IQ2M, true),
    (FileType::IQ2XXS, true),
];

pub(super) fn gguf_schemes() -> Vec<Scheme> {
    GGUF.map(|(file_type, imatrix)| Scheme::Gguf { file_type, imatrix }).into()
}

/// One way to have a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// As it is stored.
    Stored,
    /// A GGUF file of this type.
    Gguf {
        /// The type.
        file_type: FileType,
        /// Made with an importance matrix.
        imatrix: bool,
    },
    /// GPTQ, symmetric.
    Gptq {
        /// Bits of a weight.
        bits: u32,
        /// Columns that share a scale.
        group: u32,
    },
    /// NF4, FP4 or int8.
    Bitsandbytes(Kind),
}

impl Scheme {
    /// As `quern quantize --to` takes it; `stored` for what is there.
    pub fn name(self) -> String {
        match self {
            Self::Stored => "stored".to_owned(),
            Self::Gguf { file_type, .. } => file_type.name().to_lowercase(),
            Self::Gptq { .. } => "gptq".to_owned(),
            Self::Bitsandbytes(kind) => kind.name().to_owned(),
        }
    }

    /// The name with what distinguishes it from others.
    pub fn title(self) -> String {
        match self {
            Self::Gguf { imatrix: true, .. } => format!("{} + imatrix", self.name()),
            Self::Gptq { bits, group } => format!("gptq {bits}-bit g{group}"),
            Self::Stored | Self::Gguf { .. } | Self::Bitsandbytes(_) => self.name(),
        }
    }

    /// Whether an importance matrix is made first.
    pub fn wants_imatrix(self) -> bool {
        matches!(self, Self::Gguf { imatrix: true, .. })
    }

    /// The options of `quern quantize`, the importance matrix left out.
    pub fn quantize_options(self) -> Vec<String> {
        let mut options = vec!["--to".to_owned(), self.name()];
        if let Self::Gptq { bits, group } = self {
            options.extend([
                "--bits".to_owned(),
                bits.to_string(),
                "--group-size".to_owned(),
                group.to_string(),
            ]);
        }
        options
    }

    /// The name of its output, for a model's own name.
    pub fn output(self, model: &str) -> String {
        match self {
            Self::Stored => model.to_owned(),
            Self::Gguf { .. } => format!("{model}-{}.gguf", self.name()),
            Self::Gptq { bits, .. } => format!("{model}-gptq-{bits}bit"),
            Self::Bitsandbytes(_) => format!("{model}-{}", self.name()),
        }
    }

    /// The type of the blocks that packed layers become in memory; for others, what quality and sizes do not ask for.
    pub(super) fn block_type(self) -> ElementType {
        match self {
            Self::Gptq { bits: 8, .. } => ElementType::Q8_0,
            Self::Gptq { .. } => ElementType::Q4_0,
            Self::Bitsandbytes(kind) => kind.in_memory(),
            Self::Gguf { file_type, .. } => file_type.default_type().unwrap_or(ElementType::F16),
            Self::Stored => ElementType::F16,
        }
    }

    /// Bits that a packed layer takes for a weight in the file, scales included; `None` if the file has what memory has.
    pub(super) fn packed_bits(self) -> Option<f64> {
        match self {
            Self::Stored | Self::Gguf { .. } => None,
            // An f16 scale and a zero point for each group.
            Self::Gptq { bits, group } => Some(f64::from(bits) + f64::from(16 + bits) / f64::from(group)),
            // Blocks of 64 with an 8-bit scale, whose own scales are shared by 256 of them.
            Self::Bitsandbytes(Kind::Nf4 | Kind::Fp4) => Some(4.0 + 8.0 / 64.0 + 32.0 / (64.0 * 256.0)),
            Self::Bitsandbytes(Kind::Int8) => Some(8.0),
        }
    }
}
