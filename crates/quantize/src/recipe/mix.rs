//! The mixes: which tensors of a block file type get more bits, or fewer, than the rest.
//!
//! llama.cpp found these rules by measuring; some look odd (`more_bits` lifts the first eighth of the
//! layers, the last eighth and every third between) and all are kept as they are, for files must agree to
//! the byte. Two things follow from how they are written:
//!
//! - Several rules count the tensors of a kind that reached them so far, so tensors must be visited in
//!   llama.cpp's order ([`super::in_file_order`]), and a tensor whose type the user pins does *not* advance
//!   the count: pinning `blk.0.ffn_down` shifts the pattern of the later layers of a dense model.
//! - "First layers" of models with experts are read from the tensor's name instead.
//!
//! Source: research on llama.cpp's `llama-quant.cpp`; checked against its own snapshot files.

use quern_tensor_io::ElementType as E;

use super::FileType as F;
use super::select::{Category, layer};
use super::{ModelFacts, RecipeError};

/// Whether layer `i` of `n` is one that the `_M` mixes give more bits.
fn more_bits(i: usize, n: usize) -> bool {
    // the truncating divisions and the sign of `i - n / 8` are part of the rule
    i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2
}

/// The running state of one pass over a model.
pub(super) struct Mix<'a> {
    file_type: F,
    model: &'a ModelFacts,
    default: E,
    has_imatrix: bool,
    tied: bool,
    output_type: Option<E>,
    attn_v_total: usize,
    attn_v: usize,
    ffn_down: usize,
    ffn_gate: usize,
    ffn_up: usize,
}

/// The parameters of a pass.
pub(super) struct MixSetup<'a> {
    pub(super) file_type: F,
    pub(super) default: E,
    pub(super) model: &'a ModelFacts,
    pub(super) has_imatrix: bool,
    /// What `--output-tensor-type` says, for embeddings that serve as the output head.
    pub(super) output_type: Option<E>,
}

impl<'a> Mix<'a> {
    /// A pass over the tensors of these names.
    pub(super) fn new<'n>(setup: MixSetup<'a>, names: impl Iterator<Item = &'n str>) -> Self {
        let (mut attn_v_total, mut tied) = (0, true);
        for name in names {
            match Category::of(name) {
                Category::AttnV => attn_v_total += 1,
                Category::Output => tied = false,
                _ => {}
            }
        }
        let MixSetup { file_type, default, model, has_imatrix, output_type } = setup;
        Self {
            file_type,
            model,
            default,
            has_imatrix,
            tied,
            output_type,
            attn_v_total,
            attn_v: 0,
            ffn_down: 0,
            ffn_gate: 0,
            ffn_up: 0,
        }
    }

    /// The type of the next tensor in order, before any fallback. `matrices` is ggml's `ne2`, the number
    /// of stacked experts.
    pub(super) fn next(&mut self, name: &str, columns: usize, matrices: usize) -> Result<E, RecipeError> {
        let category = Category::of(name);
        if category == Category::Output || (self.tied && category == Category::Embedding) {
            return Ok(self.head(columns));
        }
        if self.file_type == F::MXFP4Moe {
            // bailingmoe3 stacks its latent-attention projections too; only experts count there
            let expert = matches!(category, Category::FfnUp | Category::FfnGate | Category::FfnDown);
            let stacked = matrices > 1 && (self.model.architecture != "bailingmoe3" || expert);
            return Ok(if stacked { E::MXFP4 } else { E::Q8_0 });
        }
        if category == Category::Embedding {
            return Ok(self.embedding());
        }
        if matches!(self.file_type, F::IQ1S | F::IQ1M | F::IQ2XXS | F::IQ2XS | F::IQ2S | F::IQ2M) {
            return Ok(self.low_bit(category));
        }
        match category {
            Category::AttnV => Ok(self.attn_v()),
            Category::AttnK if self.model.experts == 8 => Ok(E::Q8_0),
            Category::AttnK | Category::AttnQ => Ok(match self.file_type {
                F::IQ3XS => E::IQ3XXS,
                F::IQ3XXS => E::IQ2S,
                _ => self.default,
            }),
            Category::AttnOutput => Ok(self.attn_output()),
            Category::FfnDown => {
                let i = self.place(name, self.ffn_down)?;
                self.ffn_down += 1;
                Ok(self.ffn_down_at(i))
            }
            Category::FfnGate => {
                let i = self.place(name, self.ffn_gate)?;
                self.ffn_gate += 1;
                Ok(self.ffn_in_at(i))
            }
            Category::FfnUp => {
                let i = self.place(name, self.ffn_up)?;
                self.ffn_up += 1;
                Ok(self.ffn_in_at(i))
            }
            Category::Output | Category::Embedding | Category::Other => Ok(self.default),
        }
    }

    fn falcon(&self) -> bool {
        self.model.architecture == "falcon"
    }

    fn grouped(&self) -> bool {
        self.model.heads_per_kv_head() >= 4
    }

    /// The output head, or embeddings that serve as one.
    fn head(&self, columns: usize) -> E {
        if let Some(t) = self.output_type {
            return t;
        }
        let whole = columns.is_multiple_of(self.default.block_elements());
        if self.file_type == F::MXFP4Moe || self.falcon() || !whole {
            return E::Q8_0;
        }
        match self.file_type {
            F::IQ1S | F::IQ1M | F::IQ2XXS | F::IQ2XS | F::IQ2S | F::IQ2M | F::IQ3XXS => E::Q5K,
            _ if self.default == E::Q8_0 => E::Q8_0,
            _ => E::Q6K,
        }
    }

    /// Embeddings beside a separate head.
    fn embedding(&self) -> E {
        match self.file_type {
            F::IQ2XXS | F::IQ2XS | F::IQ1S | F::IQ1M => E::Q2K,
            F::IQ2S | F::IQ2M | F::IQ3XXS => E::IQ3S,
            F::TQ1_0 | F::TQ2_0 | F::Q2_0 => E::Q4K,
            _ => self.default,
        }
    }

    /// The files of one and two bits have rules of their own.
    fn low_bit(&mut self, category: Category) -> E {
        let medium = matches!(self.file_type, F::IQ2S | F::IQ2M);
        let raised = if medium { E::IQ3S } else { E::Q2K };
        match category {
            Category::AttnV => {
                self.attn_v += 1;
                if self.grouped() || self.model.experts >= 4 { E::Q4K } else { raised }
            }
            Category::AttnK if self.model.experts == 8 => E::Q4K,
            Category::FfnDown => {
                self.ffn_down += 1;
                if self.ffn_down - 1 < self.model.layers / 8 { raised } else { self.default }
            }
            Category::AttnOutput if self.model.experts == 8 => E::Q5K,
            Category::AttnOutput if medium => E::IQ3S,
            Category::AttnOutput if matches!(self.file_type, F::IQ1S | F::IQ1M) => E::IQ2XXS,
            _ => self.default,
        }
    }

    fn attn_v(&mut self) -> E {
        let (i, n) = (self.attn_v, self.attn_v_total);
        self.attn_v += 1;
        if self.model.experts == 8 {
            return E::Q8_0;
        }
        let chosen = match self.file_type {
            F::Q2K => {
                if self.grouped() {
                    E::Q4K
                } else {
                    E::Q3K
                }
            }
            F::Q2KS if self.grouped() => E::Q4K,
            F::IQ3XXS if self.grouped() => E::Q4K,
            F::IQ3XXS if !self.has_imatrix => E::IQ3S,
            F::IQ3XS | F::IQ3S if self.grouped() => E::Q4K,
            F::IQ3M => E::Q4K,
            F::Q3KM => {
                if i < 2 {
                    E::Q5K
                } else {
                    E::Q4K
                }
            }
            F::Q3KL => E::Q5K,
            F::IQ4NL | F::IQ4XS if self.grouped() => E::Q5K,
            F::Q4KM | F::Q5KM if more_bits(i, n) => E::Q6K,
            F::Q4KS if i < 4 => E::Q5K,
            _ => self.default,
        };
        // values of the 70B shape are an eighth of the queries: more bits cost next to nothing
        if self.model.is_70b() && matches!(chosen, E::Q3K | E::Q4K) { E::Q5K } else { chosen }
    }

    fn attn_output(&self) -> E {
        if self.falcon() {
            return if self.file_type == F::Q3KL { E::Q4K } else { self.default };
        }
        if self.model.experts == 8 {
            return match self.file_type {
                F::Q2K | F::Q3KS | F::Q3KM | F::Q4KS | F::Q4KM => E::Q5K,
                F::IQ3XXS | F::IQ3XS | F::IQ3S | F::IQ3M | F::IQ4NL | F::IQ4XS => E::Q5K,
                _ => self.default,
            };
        }
        match self.file_type {
            F::Q2K => E::Q3K,
            F::IQ3XXS => E::IQ3S,
            F::Q3KM | F::IQ3M => E::Q4K,
            F::Q3KL => E::Q5K,
            _ => self.default,
        }
    }

    fn ffn_down_at(&self, i: usize) -> E {
        let n = self.model.layers;
        let (first, more, falcon) = (i < n / 8, more_bits(i, n), self.falcon());
        match self.file_type {
            F::Q2K => E::Q3K,
            F::Q2KS if first => E::Q4K,
            F::IQ3XXS if !self.has_imatrix => {
                if first {
                    E::Q4K
                } else {
                    E::Q3K
                }
            }
            F::Q3KM if i < n / 16 => E::Q5K,
            F::Q3KM => {
                if !falcon || more {
                    E::Q4K
                } else {
                    E::Q3K
                }
            }
            F::IQ3M if first || (self.model.experts == 8 && more) => E::Q4K,
            F::Q3KL => {
                if falcon {
                    E::Q4K
                } else {
                    E::Q5K
                }
            }
            F::Q4KM if falcon && i < n / 16 => E::Q6K,
            F::Q4KM if falcon => {
                if more {
                    E::Q5K
                } else {
                    E::Q4K
                }
            }
            F::Q4KM | F::Q5KM if more => E::Q6K,
            F::IQ4NL | F::IQ4XS if first && !self.has_imatrix => E::Q5K,
            F::Q4KS if first && !falcon => E::Q5K,
            // an importance matrix can make the first layers of these two worse
            F::Q4_0 if first && self.has_imatrix => E::Q4_1,
            F::Q5_0 if first && self.has_imatrix => E::Q5_1,
            _ => self.default,
        }
    }

    /// Gate and up projections.
    fn ffn_in_at(&self, i: usize) -> E {
        let n = self.model.layers;
        let middle = i >= n / 8 && i < 7 * n / 8;
        if self.file_type == F::IQ3XS && middle { E::IQ3XXS } else { self.default }
    }

    /// The tensor's place among the layers: the count so far, or for models with experts, which are not stored
    /// in order, the layer in its name.
    fn place(&self, name: &str, count: usize) -> Result<usize, RecipeError> {
        if self.model.experts <= 1 {
            return Ok(count);
        }
        layer(name)
            .filter(|&i| i < self.model.layers)
            .ok_or_else(|| RecipeError::NoLayer { tensor: name.to_owned(), layers: self.model.layers })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_32_layers_get_more_bits() {
        let more: Vec<usize> = (0..32).filter(|&i| more_bits(i, 32)).collect();
        assert_eq!(more, [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]);
        let more: Vec<usize> = (0..4).filter(|&i| more_bits(i, 4)).collect();
        assert_eq!(more, [2, 3]);
    }
}
