//! Recipe files: which tensor gets which element type, in a small text that people read and change.
//!
//! ```text
//! # a comment
//! architecture = llama                 only for models of this architecture
//! layers = 22                          the layers that the numbers below count
//! default = q4_K                       the type of tensors that no line names
//! output.weight = q6_K
//! blk.0-3,20,21.ffn_down.weight = q6_K
//! blk.*.attn_*.weight = q5_K           * stands for any characters
//! ```
//!
//! The first line that matches a tensor counts. A model with another number of layers than `layers` is mapped by relative
//! depth: its layer `i` of `n` gets what layer `(2 i + 1) layers / 2 n` has, rounded down. Without `layers`, numbers are
//! taken as they are.

use std::fmt;
use std::path::Path;

use quern_tensor_io::{ElementType, small};

use super::RecipeError;
use super::overrides::is_writable;
use super::select::layer;
use crate::recipe::FileType;

/// Lines a file may have: more than tensors of any model.
const MOST_LINES: usize = 100_000;

/// A recipe that was read or made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// What is said above the lines.
    pub comments: Vec<String>,
    /// The architecture that it is for, as GGUF names it.
    pub architecture: Option<String>,
    /// The number of layers that its lines count.
    pub layers: Option<usize>,
    /// The type of tensors that no line names.
    pub default: ElementType,
    /// The lines.
    pub lines: Vec<RecipeLine>,
}

/// One line: tensors and their type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecipeLine {
    name: TensorNames,
    element_type: ElementType,
}

/// The names of some tensors.
#[derive(Clone, Debug, PartialEq, Eq)]
struct TensorNames {
    /// First and last layer of each range; none for names without a layer, or for all.
    layers: Vec<(usize, usize)>,
    /// The name, behind `blk.N.` where there are layers; `*` for any characters.
    rest: String,
}

impl RecipeLine {
    /// One tensor, or, by `*`, several outside the layers or in all of them.
    pub fn new(name: &str, element_type: ElementType) -> Self {
        Self { name: TensorNames { layers: Vec::new(), rest: name.to_owned() }, element_type }
    }

    /// A tensor of these layers, which ascend: `rest` is its name behind `blk.N.`.
    pub fn of_layers(layers: &[usize], rest: &str, element_type: ElementType) -> Self {
        let mut ranges: Vec<(usize, usize)> = Vec::new();
        for &layer in layers {
            match ranges.last_mut() {
                Some(range) if range.1 + 1 == layer => range.1 = layer,
                Some(_) | None => ranges.push((layer, layer)),
            }
        }
        Self { name: TensorNames { layers: ranges, rest: rest.to_owned() }, element_type }
    }
}

impl TensorNames {
    fn parse(text: &str) -> Result<Self, String> {
        let numbered = text.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
        let Some((list, rest)) = numbered.filter(|(list, _)| !list.contains('*')) else {
            return Ok(Self { layers: Vec::new(), rest: text.to_owned() });
        };
        let number = |text: &str| {
            let plain = text.bytes().all(|b| b.is_ascii_digit());
            let number = text.parse::<usize>().ok().filter(|_| plain);
            number.ok_or_else(|| format!("{list:?} are no layers; write them as 0-3,6"))
        };
        let range = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            match first <= last {
                true => Ok((first, last)),
                false => Err(format!("the layers {part} end before they begin; write {last}-{first}")),
            }
        };
        let layers = list.split(',').map(range).collect::<Result<_, _>>()?;
        Ok(Self { layers, rest: rest.to_owned() })
    }

    /// Whether a tensor is meant whose layer the file counts as `layer`.
    fn matches(&self, name: &str, layer: Option<usize>) -> bool {
        if self.layers.is_empty() {
            return glob(&self.rest, name);
        }
        let within = |layer: usize| self.layers.iter().any(|&(first, last)| (first..=last).contains(&layer));
        let rest = name.strip_prefix("blk.").and_then(|rest| Some(rest.split_once('.')?.1));
        layer.is_some_and(within) && rest.is_some_and(|rest| glob(&self.rest, rest))
    }
}

impl fmt::Display for TensorNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (first, last)) in self.layers.iter().enumerate() {
            let before = if i == 0 { "blk." } else { "," };
            match first == last {
                true => write!(f, "{before}{first}")?,
                false => write!(f, "{before}{first}-{last}")?,
            }
        }
        let dot = if self.layers.is_empty() { "" } else { "." };
        write!(f, "{dot}{}", self.rest)
    }
}

/// Whether `name` is `pattern`, in which `*` stands for any characters.
fn glob(pattern: &str, name: &str) -> bool {
    let Some((first, others)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut name) = name.strip_prefix(first) else { return false };
    let mut parts = others.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return name.ends_with(part);
        }
        let Some(at) = name.find(part) else { return false };
        name = &name[at + part.len()..];
    }
    true
}

impl Recipe {
    /// One type for all tensors of any model.
    pub fn all(element_type: ElementType) -> Self {
        let (comments, lines) = (Vec::new(), Vec::new());
        Self { comments, architecture: None, layers: None, default: element_type, lines }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read; [`RecipeError::File`] with the line.
    pub fn open(path: &Path) -> Result<Self, RecipeError> {
        let text = small::text(path, small::CONFIGURATION)?;
        Self::parse(&text).map_err(|error| match error {
            RecipeError::File { line, what, .. } => {
                RecipeError::File { file: path.display().to_string(), line, what }
            }
            other => other,
        })
    }

    /// Reads a text.
    ///
    /// # Errors
    /// [`RecipeError::File`] with the line.
    pub fn parse(text: &str) -> Result<Self, RecipeError> {
        let (mut architecture, mut layers, mut default) = (None, None, None);
        let (mut comments, mut lines) = (Vec::new(), Vec::new());
        for (index, line) in text.lines().enumerate() {
            let bad =
                |what: String| RecipeError::File { file: "the recipe".to_owned(), line: index + 1, what };
            if index >= MOST_LINES {
                return Err(bad(format!(
                    "a recipe has at most {MOST_LINES} lines; use * and ranges of layers"
                )));
            }
            let line = line.trim();
            if let Some(comment) = line.strip_prefix('#') {
                if lines.is_empty() && default.is_none() {
                    comments.push(comment.trim().to_owned());
                }
                continue;
            }
            if line.is_empty() {
                continue;
            }
            let line = line.split_once(" #").map_or(line, |(line, _)| line);
            let (key, value) = line
                .split_once('=')
                .map(|(key, value)| (key.trim(), value.trim()))
                .filter(|(key, value)| !key.is_empty() && !value.is_empty())
                .ok_or_else(|| bad("expected TENSOR = TYPE, such as output.weight = q6_K".to_owned()))?;
            let twice = || bad(format!("{key} is given twice; keep one of them"));
            match key {
                "architecture" => match architecture.replace(value.to_owned()) {
                    Some(_) => return Err(twice()),
                    None => continue,
                },
                "layers" => {
                    let number = value.parse::<usize>().ok().filter(|&n| n > 0);
                    let number = number.ok_or_else(|| bad("layers is a number above 0".to_owned()))?;
                    match layers.replace(number) {
                        Some(_) => return Err(twice()),
                        None => continue,
                    }
                }
                _ => {}
            }
            let element_type = writable(value).map_err(bad)?;
            if key == "default" {
                match default.replace(element_type) {
                    Some(_) => return Err(twice()),
                    None => continue,
                }
            }
            if key.contains(char::is_whitespace) || !key.contains(['.', '*']) {
                return Err(bad(format!(
                    "{key:?} is no tensor; names are those of GGUF, such as blk.0-3.attn_q.weight, and the other keys \
                     architecture, layers and default"
                )));
            }
            lines.push(RecipeLine { name: TensorNames::parse(key).map_err(bad)?, element_type });
        }
        let Some(default) = default else {
            let what = "there is no default; add a line such as default = q4_K".to_owned();
            return Err(RecipeError::File {
                file: "the recipe".to_owned(),
                line: text.lines().count().max(1),
                what,
            });
        };
        Ok(Self { comments, architecture, layers, default, lines })
    }

    /// Refuses a model of another architecture.
    ///
    /// # Errors
    /// [`RecipeError::Architecture`].
    pub fn check(&self, architecture: &str) -> Result<(), RecipeError> {
        match &self.architecture {
            Some(own) if own != architecture => {
                Err(RecipeError::Architecture { recipe: own.clone(), model: architecture.to_owned() })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// The type of a tensor of a model with `layers` layers.
    pub fn type_of(&self, name: &str, layers: usize) -> ElementType {
        let layer = layer(name).map(|i| match self.layers {
            Some(own) if own != layers && layers > 0 => (2 * i + 1) * own / (2 * layers),
            Some(_) | None => i,
        });
        let line = self.lines.iter().find(|line| line.name.matches(name, layer));
        line.map_or(self.default, |line| line.element_type)
    }

    /// The file type that readers are given: the one whose default type is the recipe's.
    pub fn file_type(&self) -> FileType {
        let medium = [FileType::Q3KM, FileType::Q4KM, FileType::Q5KM, FileType::IQ3S, FileType::IQ2XS];
        let all = medium.iter().chain(FileType::ALL);
        let found = all.copied().find(|t| t.default_type() == Some(self.default));
        // NVFP4 has no file type.
        found.unwrap_or(FileType::Q4KM)
    }
}

/// As the text that [`Recipe::parse`] reads.
impl fmt::Display for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for comment in &self.comments {
            // A line break would end the comment.
            let comment: String = comment.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            writeln!(f, "{}", format!("# {comment}").trim_end())?;
        }
        if let Some(architecture) = &self.architecture {
            writeln!(f, "architecture = {architecture}")?;
        }
        if let Some(layers) = self.layers {
            writeln!(f, "layers = {layers}")?;
        }
        writeln!(f, "default = {}", self.default)?;
        for line in &self.lines {
            writeln!(f, "{} = {}", line.name, line.element_type)?;
        }
        Ok(())
    }
}

fn writable(name: &str) -> Result<ElementType, String> {
    let known = |t: &&ElementType| is_writable(**t);
    match ElementType::from_name(name).filter(|t| is_writable(*t)) {
        Some(element_type) => Ok(element_type),
        None => {
            let names: Vec<_> = ElementType::ALL.iter().filter(known).map(|t| t.name()).collect();
            Err(format!("{name:?} is no type for weights in a GGUF file; choose one of {}", names.join(", ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use ElementType as E;

    const TEXT: &str = "\
# made by hand
#
architecture = llama
layers = 4
default = q4_K
output.weight = q6_K
blk.0,2-3.ffn_down.weight = Q5_K   # by measurement
blk.*.attn_*.weight = iq4_xs
";

    #[test]
    fn the_first_line_that_matches_counts() {
        let recipe = Recipe::parse(TEXT).unwrap();
        assert_eq!(recipe.comments, ["made by hand", ""]);
        for (name, expected) in [
            ("token_embd.weight", E::Q4K),
            ("output.weight", E::Q6K),
            ("blk.0.ffn_down.weight", E::Q5K),
            ("blk.1.ffn_down.weight", E::Q4K),
            ("blk.3.ffn_down.weight", E::Q5K),
            ("blk.3.attn_q.weight", E::IQ4XS),
            ("blk.3.attn_q.bias", E::Q4K),
            ("attn_q.weight", E::Q4K),
        ] {
            assert_eq!(recipe.type_of(name, 4), expected, "{name}");
        }
        assert_eq!(recipe.file_type(), FileType::Q4KM);
        assert!(recipe.check("llama").is_ok());
        let error = recipe.check("qwen2").unwrap_err().to_string();
        assert!(error.contains("llama") && error.contains("qwen2"), "{error}");
    }

    #[test]
    fn layers_are_mapped_by_relative_depth() {
        let recipe = Recipe::parse(TEXT).unwrap();
        let types = |layers: usize| -> Vec<bool> {
            (0..layers)
                .map(|i| recipe.type_of(&format!("blk.{i}.ffn_down.weight"), layers) == E::Q5K)
                .collect()
        };
        assert_eq!(types(4), [true, false, true, true]);
        assert_eq!(types(8), [true, true, false, false, true, true, true, true]);
        assert_eq!(types(2), [false, true]);
        assert_eq!(types(1), [true]);
        // Of 3 layers the middle one is at depth 1/2, in layer 2 of 4.
        assert_eq!(types(3), [true, true, true]);
    }

    #[test]
    fn every_mistake_names_its_line_and_what_to_do() {
        for (text, line, part) in [
            ("", 1, "default = q4_K"),
            ("default = q4_K\ndefault = q5_K", 2, "twice"),
            ("default = q4_K\n\noutput.weight", 3, "TENSOR = TYPE"),
            ("default = q4_k_m", 1, "choose one of"),
            ("default = q8_1", 1, "choose one of"),
            ("default = q4_K\nlayers = 0", 2, "above 0"),
            ("default = q4_K\noutput = q6_K", 2, "no tensor"),
            ("default = q4_K\nblk.3-1.x.weight = q6_K", 2, "1-3"),
            ("default = q4_K\nblk.+1.x.weight = q6_K", 2, "0-3,6"),
            ("default = q4_K\nblk.1,.x.weight = q6_K", 2, "0-3,6"),
            ("default = q4_K\nblk.a.x.weight = q6_K", 2, "0-3,6"),
            ("default = q4_K\na b.weight = q6_K", 2, "no tensor"),
        ] {
            let error = Recipe::parse(text).unwrap_err().to_string();
            assert!(error.contains(&format!("line {line}")) && error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn globs_match_whole_names() {
        for (pattern, name, expected) in [
            ("*", "anything", true),
            ("a*", "abc", true),
            ("*c", "abc", true),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxc", false),
            ("a*a", "a", false),
            ("abc", "abcd", false),
            ("*bc", "abcd", false),
        ] {
            assert_eq!(glob(pattern, name), expected, "{pattern} {name}");
        }
    }

    fn recipes() -> impl Strategy<Value = Recipe> {
        let types: Vec<E> = E::ALL.iter().copied().filter(|t| is_writable(*t)).collect();
        let types = move || proptest::sample::select(types.clone());
        let names = proptest::sample::select(vec!["ffn_*.weight", "attn_q.weight", "*", "x.y"]);
        let layers = proptest::collection::btree_set(0usize..40, 0..6);
        let line = (names, layers, types()).prop_map(|(name, layers, t)| match layers.is_empty() {
            true => RecipeLine::new(&format!("a.{name}"), t),
            false => RecipeLine::of_layers(&layers.into_iter().collect::<Vec<_>>(), name, t),
        });
        let comments = proptest::collection::vec("[a-z0-9=.]([a-z #]{0,10}[a-z])?", 0..3);
        let head = (comments, proptest::option::of("[a-z]{1,8}"), proptest::option::of(1usize..50), types());
        (head, proptest::collection::vec(line, 0..8)).prop_map(
            |((comments, architecture, layers, default), lines)| Recipe {
                comments,
                architecture,
                layers,
                default,
                lines,
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(recipe in recipes()) {
            let text = recipe.to_string();
            prop_assert_eq!(Recipe::parse(&text).unwrap(), recipe, "{}", text);
        }
    }
}
