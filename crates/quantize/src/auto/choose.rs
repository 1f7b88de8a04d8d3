//! From costs and a target to a recipe.

use std::collections::BTreeMap;

use quern_model::View;
use quern_tensor_io::ElementType;

use super::{Error, Sensitivity, Version, allocate};
use crate::job::{self, Options, QuantizePlan, QuantizeRow};
use crate::recipe::{Recipe, RecipeLine};

/// Corrections of the room for metadata, whose length depends on what was chosen.
const ROUNDS: usize = 8;

/// Bytes by which the record of the command may grow when the target is another number.
const RECORD: u64 = 64;

/// How large the result may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    /// Bits per weight over all tensors, as `quern inspect` counts them.
    BitsPerWeight(f64),
    /// Bytes of the file, metadata included.
    Size(u64),
}

/// What was chosen.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// As a recipe, without comments.
    pub recipe: Recipe,
    /// The mean divergence that is expected of the result, in nats.
    pub divergence: f64,
    /// What was chosen for, in the order of the file.
    pub rows: Vec<ChosenRow>,
}

/// One tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct ChosenRow {
    /// GGUF name.
    pub name: String,
    /// The type.
    pub element_type: ElementType,
    /// Its part of the divergence.
    pub divergence: f64,
}

/// Chooses the types of the tensors that were measured. Others, and those for which the options pin a type, keep what the
/// options say, with `q8_0` for those of which nothing is known. The plan of `options` with the recipe is within the
/// target.
///
/// # Errors
/// [`Error::TooSmall`] with the smallest target that can be met; those of [`job::plan`].
pub fn choose(
    view: &View<'_>,
    options: &Options,
    sensitivity: &Sensitivity,
    target: Target,
) -> Result<Chosen, Error> {
    let architecture = view.metadata().str("general.architecture").map(str::to_owned);
    let blank = Recipe { architecture, ..Recipe::all(ElementType::Q8_0) };
    let plan = planned(view, options, &blank)?;
    let free: Vec<&QuantizeRow> = plan
        .rows()
        .iter()
        .filter(|row| sensitivity.tensors.contains_key(&row.name) && options.is_open(&row.name, &row.shape))
        .collect();
    if free.is_empty() {
        return Err(Error::Nothing);
    }
    let alignment = view.metadata().u64("general.alignment").filter(|&n| n > 0).unwrap_or(32);
    let room = |bytes: u64| match target {
        Target::BitsPerWeight(_) => bytes,
        Target::Size(_) => bytes.next_multiple_of(alignment),
    };
    let versions = |row: &QuantizeRow| -> Vec<(ElementType, Version)> {
        let version = |&(to, cost): &(ElementType, f64)| {
            let row_bytes = to.row_bytes(row.shape.last().copied().unwrap_or(1))? as u64;
            let rows: u64 = row.shape.iter().rev().skip(1).map(|&n| n as u64).product();
            Some((to, Version { bytes: room(row_bytes * rows), cost }))
        };
        let costs = sensitivity.tensors.get(&row.name).map_or(&[][..], |tensor| &tensor.costs);
        costs.iter().filter_map(version).collect()
    };
    let free: Vec<(&QuantizeRow, Vec<(ElementType, Version)>)> = free
        .into_iter()
        .map(|row| (row, versions(row)))
        .filter(|(_, versions)| !versions.is_empty())
        .collect();
    let items: Vec<Vec<Version>> =
        free.iter().map(|(_, versions)| versions.iter().map(|&(_, version)| version).collect()).collect();
    // What is not chosen for takes the same whatever is chosen.
    let planned_room: u64 = free.iter().map(|(row, _)| room(row.bytes)).sum();
    let fixed = match target {
        Target::BitsPerWeight(_) => plan.tensor_bytes(),
        Target::Size(_) => plan.file_size(),
    } - planned_room;
    let most = match target {
        Target::BitsPerWeight(bits) => (bits * plan.parameters() as f64 / 8.0).floor() as u64,
        Target::Size(bytes) => bytes,
    };
    let mut excess = 0;
    for _ in 0..ROUNDS {
        let found = most.checked_sub(fixed + excess).ok_or(0).and_then(|budget| allocate(&items, budget));
        let Ok(chosen) = found else {
            let smallest = |item: &Vec<Version>| item.iter().map(|v| v.bytes).min().unwrap_or(0);
            let least = fixed + excess + items.iter().map(smallest).sum::<u64>();
            return Err(Error::TooSmall { least: words(target, least, plan.parameters()) });
        };
        let rows: Vec<ChosenRow> = free
            .iter()
            .zip(chosen)
            .map(|((row, versions), version)| {
                let (element_type, Version { cost, .. }) = versions[version];
                ChosenRow { name: row.name.clone(), element_type, divergence: cost }
            })
            .collect();
        let recipe = recipe(&blank, &rows, plan.rows());
        let made = planned(view, options, &recipe)?;
        let over = match target {
            Target::BitsPerWeight(_) => made.tensor_bytes().saturating_sub(most),
            Target::Size(_) => made.file_size().saturating_sub(most),
        };
        if over == 0 {
            let divergence = rows.iter().map(|row| row.divergence).sum();
            return Ok(Chosen { recipe, divergence, rows });
        }
        excess += over;
    }
    Err(Error::TooSmall { least: words(target, most + excess, plan.parameters()) })
}

fn planned<'a>(view: &'a View<'a>, options: &Options, recipe: &Recipe) -> Result<QuantizePlan<'a>, Error> {
    let options = Options { recipe: Some(recipe.clone()), file_type: recipe.file_type(), ..options.clone() };
    Ok(job::plan(view, options)?)
}

/// A target of so many bytes, rounded up so that it can be met.
fn words(target: Target, bytes: u64, parameters: u64) -> String {
    match target {
        Target::BitsPerWeight(_) => {
            let bits = bytes as f64 * 8.0 / parameters.max(1) as f64;
            format!("{:.3} bits per weight", (bits * 1000.0).ceil() / 1000.0)
        }
        // The command is recorded in the file, and a larger number may be longer.
        Target::Size(_) => format!("{} bytes", bytes + RECORD),
    }
}

/// One line for the layers of a kind of tensor that have the same type.
fn recipe(blank: &Recipe, chosen: &[ChosenRow], rows: &[QuantizeRow]) -> Recipe {
    let weights = |name: &str| -> u64 {
        let row = rows.iter().find(|row| row.name == name);
        row.map_or(0, |row| row.shape.iter().map(|&n| n as u64).product())
    };
    let mut most: Vec<(ElementType, u64)> = Vec::new();
    let mut kinds: BTreeMap<&str, Vec<(ElementType, Vec<usize>)>> = BTreeMap::new();
    let (mut lines, mut layers) = (Vec::new(), 0);
    for row in chosen {
        let to = row.element_type;
        match most.iter_mut().find(|(t, _)| *t == to) {
            Some((_, count)) => *count += weights(&row.name),
            None => most.push((to, weights(&row.name))),
        }
        let numbered = row.name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
        let layer = numbered.and_then(|(number, rest)| Some((number.parse::<usize>().ok()?, rest)));
        let Some((layer, kind)) = layer else {
            lines.push(RecipeLine::new(&row.name, to));
            continue;
        };
        layers = layers.max(layer + 1);
        let types = kinds.entry(kind).or_default();
        match types.iter_mut().find(|(t, _)| *t == to) {
            Some((_, layers)) => layers.push(layer),
            None => types.push((to, vec![layer])),
        }
    }
    for (kind, types) in kinds {
        match &types[..] {
            [(to, _)] => lines.push(RecipeLine::new(&format!("blk.*.{kind}"), *to)),
            _ => lines.extend(types.iter().map(|(to, layers)| RecipeLine::of_layers(layers, kind, *to))),
        }
    }
    // The first of equals.
    let default = most.iter().rev().max_by_key(|(_, count)| *count).map_or(blank.default, |&(to, _)| to);
    // What was not measured is safe with 8 bits, here and in another model.
    let unknown =
        rows.iter().filter(|row| row.to == blank.default && chosen.iter().all(|c| c.name != row.name));
    lines.extend(unknown.map(|row| RecipeLine::new(&row.name, blank.default)));
    Recipe { default, layers: (layers > 0).then_some(layers), lines, ..blank.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ElementType as E;

    #[test]
    fn a_recipe_has_one_line_a_kind_and_type() {
        let blank = Recipe { architecture: Some("llama".to_owned()), ..Recipe::all(E::Q8_0) };
        let chosen: Vec<ChosenRow> = [
            ("output.weight", E::Q6K),
            ("blk.0.attn_q.weight", E::Q3K),
            ("blk.1.attn_q.weight", E::Q3K),
            ("blk.2.attn_q.weight", E::Q3K),
            ("blk.0.ffn_down.weight", E::Q5K),
            ("blk.1.ffn_down.weight", E::Q4K),
            ("blk.2.ffn_down.weight", E::Q5K),
        ]
        .map(|(name, element_type)| ChosenRow { name: name.to_owned(), element_type, divergence: 0.0 })
        .to_vec();
        let recipe = recipe(&blank, &chosen, &[]);
        assert_eq!(
            recipe.to_string(),
            "architecture = llama\nlayers = 3\ndefault = q6_K\noutput.weight = q6_K\nblk.*.attn_q.weight = q3_K\n\
             blk.0,2.ffn_down.weight = q5_K\nblk.1.ffn_down.weight = q4_K\n"
        );
        for row in chosen {
            assert_eq!(recipe.type_of(&row.name, 3), row.element_type, "{}", row.name);
        }
        assert_eq!(words(Target::BitsPerWeight(1.0), 1000, 3000), "2.667 bits per weight");
    }
}
