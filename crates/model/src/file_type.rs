//! File types: what llama-quantize calls the whole-file targets.
//!
//! A file type names a recipe, not an element type: `Q4_K_M` is mostly `q4_K` with some `q6_K`. Names,
//! ids (`general.file_type`) and default element types are those of llama.cpp's `llama_ftype`.

use std::fmt;

use quern_tensor_io::ElementType;

macro_rules! file_types {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, id $id:expr, $default:expr;)*) => {
        /// A whole-file quantization target, as llama-quantize names it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum FileType { $($(#[$doc])* $variant,)* }

        impl FileType {
            /// Every file type, in declaration order.
            pub const ALL: &'static [FileType] = &[$(FileType::$variant,)*];

            /// llama-quantize's name for it (`Q4_K_M`).
            pub const fn name(self) -> &'static str { match self { $(Self::$variant => $name,)* } }

            /// The value of `general.file_type`; `None` for [`FileType::Copy`], which keeps the source's.
            pub const fn id(self) -> Option<u32> { match self { $(Self::$variant => $id,)* } }

            /// The element type of every tensor to which no rule applies; `None` for [`FileType::Copy`].
            pub const fn default_type(self) -> Option<ElementType> {
                match self { $(Self::$variant => $default,)* }
            }
        }
    };
}

use ElementType as E;

file_types! {
    /// Everything in f32.
    F32 = "F32", id Some(0), Some(E::F32);
    /// Matrices in f16, the rest in f32.
    F16 = "F16", id Some(1), Some(E::F16);
    /// Matrices in bf16, the rest in f32.
    BF16 = "BF16", id Some(32), Some(E::BF16);
    /// Plain 4-bit.
    Q4_0 = "Q4_0", id Some(2), Some(E::Q4_0);
    /// Plain 4-bit with minima.
    Q4_1 = "Q4_1", id Some(3), Some(E::Q4_1);
    /// Plain 5-bit.
    Q5_0 = "Q5_0", id Some(8), Some(E::Q5_0);
    /// Plain 5-bit with minima.
    Q5_1 = "Q5_1", id Some(9), Some(E::Q5_1);
    /// Plain 8-bit.
    Q8_0 = "Q8_0", id Some(7), Some(E::Q8_0);
    /// Mostly `q2_K`.
    Q2K = "Q2_K", id Some(10), Some(E::Q2K);
    /// `q2_K` with fewer exceptions; needs an importance matrix.
    Q2KS = "Q2_K_S", id Some(21), Some(E::Q2K);
    /// `q3_K`, few exceptions.
    Q3KS = "Q3_K_S", id Some(11), Some(E::Q3K);
    /// Mostly `q3_K`.
    Q3KM = "Q3_K_M", id Some(12), Some(E::Q3K);
    /// `q3_K` with many exceptions.
    Q3KL = "Q3_K_L", id Some(13), Some(E::Q3K);
    /// `q4_K`, few exceptions.
    Q4KS = "Q4_K_S", id Some(14), Some(E::Q4K);
    /// Mostly `q4_K`, half of `attn_v` and `ffn_down` in `q6_K`.
    Q4KM = "Q4_K_M", id Some(15), Some(E::Q4K);
    /// `q5_K`.
    Q5KS = "Q5_K_S", id Some(16), Some(E::Q5K);
    /// Mostly `q5_K`, half of `attn_v` and `ffn_down` in `q6_K`.
    Q5KM = "Q5_K_M", id Some(17), Some(E::Q5K);
    /// `q6_K`.
    Q6K = "Q6_K", id Some(18), Some(E::Q6K);
    /// Non-linear 4-bit.
    IQ4NL = "IQ4_NL", id Some(25), Some(E::IQ4NL);
    /// Non-linear 4-bit in super-blocks.
    IQ4XS = "IQ4_XS", id Some(30), Some(E::IQ4XS);
    /// Grid-coded 3-bit.
    IQ3XXS = "IQ3_XXS", id Some(23), Some(E::IQ3XXS);
    /// `iq3_s` with `iq3_xxs` in the middle layers.
    IQ3XS = "IQ3_XS", id Some(22), Some(E::IQ3S);
    /// Grid-coded 3-bit.
    IQ3S = "IQ3_S", id Some(26), Some(E::IQ3S);
    /// `iq3_s` with `q4_K` exceptions.
    IQ3M = "IQ3_M", id Some(27), Some(E::IQ3S);
    /// Grid-coded 2-bit.
    IQ2XXS = "IQ2_XXS", id Some(19), Some(E::IQ2XXS);
    /// Grid-coded 2-bit.
    IQ2XS = "IQ2_XS", id Some(20), Some(E::IQ2XS);
    /// `iq2_xs` with `iq3_s` exceptions.
    IQ2S = "IQ2_S", id Some(28), Some(E::IQ2XS);
    /// `iq2_s` with `iq3_s` exceptions.
    IQ2M = "IQ2_M", id Some(29), Some(E::IQ2S);
    /// Grid-coded 1.5-bit.
    IQ1S = "IQ1_S", id Some(24), Some(E::IQ1S);
    /// Grid-coded 1.75-bit.
    IQ1M = "IQ1_M", id Some(31), Some(E::IQ1M);
    /// Ternary.
    TQ1_0 = "TQ1_0", id Some(36), Some(E::TQ1_0);
    /// Ternary, faster.
    TQ2_0 = "TQ2_0", id Some(37), Some(E::TQ2_0);
    /// `mxfp4` experts, the rest in `q8_0`.
    MXFP4Moe = "MXFP4_MOE", id Some(38), Some(E::MXFP4);
    /// `mxfp4` throughout, for dense models: llama-quantize has no name for it, and its `MXFP4_MOE` leaves
    /// a model without experts at `q8_0`. The file carries the same id, the nearest that readers know.
    MXFP4 = "MXFP4", id Some(38), Some(E::MXFP4);
    /// Signs.
    Q1_0 = "Q1_0", id Some(40), Some(E::Q1_0);
    /// 2-bit, plain.
    Q2_0 = "Q2_0", id Some(41), Some(E::Q2_0);
    /// Every tensor as it is: only the container changes.
    Copy = "COPY", id None, None;
}

impl FileType {
    /// The file type of this name, in any case, an alias (`Q3_K`, `Q4_K`, `Q5_K` mean the `_M` mixes) or
    /// llama-quantize's integer id.
    pub fn from_name(name: &str) -> Option<Self> {
        let name = name.trim();
        if let Ok(id) = name.parse::<u32>() {
            return Self::from_id(id);
        }
        let name = match name.to_ascii_uppercase().as_str() {
            "Q3_K" => "Q3_K_M".to_owned(),
            "Q4_K" => "Q4_K_M".to_owned(),
            "Q5_K" => "Q5_K_M".to_owned(),
            other => other.to_owned(),
        };
        Self::ALL.iter().copied().find(|t| t.name() == name)
    }

    /// The file type whose `general.file_type` is `id`.
    pub fn from_id(id: u32) -> Option<Self> {
        Self::ALL.iter().copied().find(|t| t.id() == Some(id))
    }

    /// Whether tensors become block types, so that mixes, overrides and fallbacks apply.
    pub fn is_block(self) -> bool {
        self.default_type().is_some_and(ElementType::is_block)
    }
}

impl fmt::Display for FileType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_aliases_and_ids_lead_to_the_type() {
        for &t in FileType::ALL {
            assert_eq!(FileType::from_name(t.name()), Some(t));
            assert_eq!(FileType::from_name(&t.name().to_lowercase()), Some(t));
            if let Some(id) = t.id().filter(|_| t != FileType::MXFP4) {
                assert_eq!(FileType::from_name(&id.to_string()), Some(t));
            }
        }
        assert_eq!(FileType::from_name("q4_k"), Some(FileType::Q4KM));
        assert_eq!(FileType::from_name("Q3_K"), Some(FileType::Q3KM));
        assert_eq!(FileType::from_name("q5_K"), Some(FileType::Q5KM));
        for unknown in ["", "q4", "Q7_K", "NVFP4", "39", "4", "-1", "4294967296"] {
            assert_eq!(FileType::from_name(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn ids_are_unique() {
        // quern's own name shares the id of llama-quantize's nearest.
        assert_eq!(FileType::MXFP4.id(), FileType::MXFP4Moe.id());
        let own = |t: &&FileType| **t != FileType::MXFP4;
        let mut ids: Vec<_> = FileType::ALL.iter().filter(own).filter_map(|t| t.id()).collect();
        ids.sort_unstable();
        let count = ids.len();
        ids.dedup();
        assert_eq!(ids.len(), count);
    }
}
