//! `REGEX=TYPE`: element types the user pins by tensor name.

use quern_model::pattern::NamePattern;
use quern_tensor_io::ElementType;

use super::RecipeError;

/// One `REGEX=TYPE`. The pattern is searched for anywhere in the name; the first override that matches a
/// tensor wins.
///
/// llama-quantize lower-cases the pattern, which makes `\D` into `\d`; here the pattern stays as written
/// and matching ignores case, which means the same for every pattern that lower-casing does not corrupt.
/// Look-around and back-references, which C++ regular expressions know, are not supported.
#[derive(Clone, Debug)]
pub struct Override {
    pattern: NamePattern,
    element_type: ElementType,
}

impl Override {
    /// Pins tensors whose name contains a match of `pattern` to `element_type`.
    pub fn new(pattern: &str, element_type: ElementType) -> Result<Self, RecipeError> {
        let text = pattern;
        let pattern = NamePattern::ignoring_case(pattern).map_err(|e| RecipeError::BadOverride {
            text: text.to_owned(),
            why: format!("bad regular expression: {e}"),
        })?;
        if !is_writable(element_type) {
            return Err(RecipeError::NotAModelType { element_type });
        }
        Ok(Self { pattern, element_type })
    }

    /// Parses `REGEX=TYPE`; the type is an element type's name in any case (`q6_k`, `f16`), not a mix.
    pub fn parse(text: &str) -> Result<Self, RecipeError> {
        let bad = |why: &str| RecipeError::BadOverride { text: text.to_owned(), why: why.to_owned() };
        let (pattern, name) = text.rsplit_once('=').ok_or_else(|| bad("expected REGEX=TYPE"))?;
        if pattern.is_empty() {
            return Err(bad("the regular expression is empty"));
        }
        let element_type = ElementType::from_name(name).ok_or_else(|| {
            bad(&format!("{name:?} is not an element type (mixes such as Q4_K_M cannot be pinned; try q4_K)"))
        })?;
        Self::new(pattern, element_type)
    }

    /// The type to use.
    pub fn element_type(&self) -> ElementType {
        self.element_type
    }

    /// Whether this override applies to the tensor.
    pub fn matches(&self, name: &str) -> bool {
        self.pattern.is_match(name)
    }
}

/// Whether a GGUF model file may hold weights of this type.
pub(super) fn is_writable(element_type: ElementType) -> bool {
    use ElementType as E;
    let float = matches!(element_type, E::F32 | E::F16 | E::BF16);
    float
        || (element_type.is_block()
            && element_type.ggml_id().is_some()
            && !matches!(element_type, E::Q8_1 | E::Q8K))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_search_and_keep_their_classes() {
        let o = Override::parse(r"blk\.\d+\.attn_[QK]\.=Q8_0").unwrap();
        assert!(o.matches("blk.12.attn_q.weight"));
        assert!(!o.matches("blk.12.attn_v.weight"));
        assert_eq!(o.element_type(), ElementType::Q8_0);
        let not_digit = Override::parse(r"ffn_\D+=q6_k").unwrap();
        assert!(not_digit.matches("blk.0.ffn_down.weight"));
        assert!(!not_digit.matches("ffn_1"));
    }

    #[test]
    fn mistakes_are_named() {
        for (text, part) in [
            ("attn_q", "REGEX=TYPE"),
            ("=q4_k", "empty"),
            ("attn_q=q4_k_m", "element type"),
            ("attn_q=", "element type"),
            ("attn_(=q4_k", "regular expression"),
            ("(?=attn)=q4_k", "regular expression"),
            ("attn_q=q8_1", "q8_1"),
            ("attn_q=q8_K", "q8_K"),
            ("attn_q=i32", "i32"),
            ("attn_q=f8_e4m3", "f8_e4m3"),
            (&format!("{}=q4_k", "(a)".repeat(30_000)), "at most 4096 are allowed"),
            (&format!("{}=q4_k", "(a)*".repeat(1000)), "1000 groups"),
        ] {
            let e = Override::parse(text).unwrap_err().to_string();
            assert!(e.contains(part) && e.len() < 400, "{text}: {e}");
        }
    }
}
