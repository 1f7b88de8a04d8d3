//! Which programs refuse the checkpoint that a job would write, and what would fit them.
//!
//! Facts from their sources (GPT-QModel f4c327a, optimum 83c88b8f for transformers, vLLM 055e47c, ExLlamaV2 da07fac):
//!
//! | reader | takes |
//! |---|---|
//! | GPT-QModel | any kernel of the table below for each module by itself; groups of its last one, `Torch` |
//! | transformers | the first kernel that takes bits, groups and zero points, for all modules; no rules for single modules |
//! | vLLM | 4 and 8 bits, symmetric (in other packings 4 bits also not), groups of 32, 64, 128 or all columns, whole groups; modules that it fuses alike |
//! | ExLlamaV2 | 4 bits, columns in multiples of 32, groups of a power of two from 32 on |
//!
//! quern itself reads whatever it writes.

mod kernels;

use std::collections::BTreeMap;

use kernels::{KERNELS, Kernel};

use super::plan::GptqModule;
use quern_tensor_io::scheme::CodeFormat;

use super::Options;
use crate::gptq::{Order, Settings};

/// A program that reads GPTQ checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// GPT-QModel.
    GptqModel,
    /// transformers, through optimum and GPT-QModel's kernels, on a CUDA device.
    Transformers,
    /// vLLM.
    Vllm,
    /// ExLlamaV2.
    ExLlamaV2,
}

impl Reader {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::GptqModel, Self::Transformers, Self::Vllm, Self::ExLlamaV2];

    /// Its name, for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::GptqModel => "GPT-QModel",
            Self::Transformers => "transformers",
            Self::Vllm => "vLLM",
            Self::ExLlamaV2 => "ExLlamaV2",
        }
    }

    /// Group sizes it takes; `None` is one group for all columns.
    pub fn group_sizes(self) -> &'static [Option<usize>] {
        match self {
            Self::GptqModel | Self::Transformers => {
                &[Some(16), Some(32), Some(64), Some(128), Some(256), Some(512), Some(1024), None]
            }
            Self::Vllm => &[Some(32), Some(64), Some(128), None],
            Self::ExLlamaV2 => &[Some(32), Some(64), Some(128), Some(256), Some(512), Some(1024), None],
        }
    }

    /// Bits per weight it takes.
    pub fn bits(self) -> &'static [u32] {
        match self {
            Self::GptqModel | Self::Transformers => &[2, 3, 4, 8],
            Self::Vllm => &[4, 8],
            Self::ExLlamaV2 => &[4],
        }
    }
}

/// Why a reader does not take modules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Bits per weight that it does not take.
    Bits(Vec<u32>),
    /// Group sizes that it does not take.
    GroupSizes(Vec<Option<usize>>),
    /// Input columns that are not whole groups.
    PartialGroups {
        /// The numbers of input columns.
        columns: Vec<usize>,
        /// The group size.
        group_size: usize,
    },
    /// Input columns in no multiple of this.
    Columns {
        /// The numbers of input columns.
        columns: Vec<usize>,
        /// What they must be a multiple of.
        multiple: usize,
    },
    /// Output rows in no multiple of this.
    Rows {
        /// The numbers of output rows.
        rows: Vec<usize>,
        /// What they must be a multiple of.
        multiple: usize,
    },
    /// A zero point per group: not taken.
    Asymmetric,
    /// A zero point per group: taken, but a zero point of 0 is misread.
    ZeroPointZero,
    /// Columns grouped by their activations (`desc_act`), with a last group that is not whole.
    OrderOfPartialGroups,
    /// Rules for single modules: it does not read them.
    Rules,
    /// Modules that it joins into one (query, key and value; gate and up) have different settings.
    Fused,
}

/// What would make it fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReaderRemedy {
    /// One of these bits per weight.
    Bits(&'static [u32]),
    /// One of these group sizes, which fit all modules of the reason.
    GroupSizes(Vec<Option<usize>>),
    /// One zero point for all (`sym`).
    Symmetric,
    /// A rule that leaves the modules as they are.
    LeaveOut,
    /// No rules for single modules.
    NoRules,
    /// The same settings for the modules that are joined.
    SameSettings,
    /// No change of the checkpoint: GPT-QModel itself reads it.
    GptqModel,
}

/// That readers refuse modules of the plan, or compute something else with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReaderNote {
    /// The readers.
    pub readers: Vec<Reader>,
    /// Why.
    pub reason: Reason,
    /// Names of the modules it concerns.
    pub modules: Vec<String>,
    /// What would fit.
    pub remedy: ReaderRemedy,
}

/// What readers say to the modules of a plan.
pub(super) fn reader_notes(modules: &[GptqModule], options: &Options) -> Vec<ReaderNote> {
    let (default, rules) = (&options.settings, options.rules.as_json().is_some());
    let gptq = matches!(options.packing, CodeFormat::Gptq(_));
    let mut notes: Vec<ReaderNote> = Vec::new();
    // What transformers reads of the other packings it decodes.
    for reader in Reader::ALL.into_iter().filter(|reader| gptq || *reader == Reader::Vllm) {
        let mut found = Found { reader, gptq, notes: Vec::new() };
        if reader == Reader::Transformers && rules {
            let names = modules.iter().filter(|m| m.settings.as_ref() != Some(default));
            let names: Vec<_> = names.map(|m| m.name.clone()).collect();
            found.notes.extend((!names.is_empty()).then_some((Reason::Rules, names, Vec::new())));
        }
        for module in modules {
            if let Some(settings) = &module.settings {
                found.module(module, settings, default);
            }
        }
        if reader == Reader::Vllm {
            found.fused(modules);
        }
        for (reason, names, shapes) in found.notes {
            let remedy = remedy(reader, &reason, &shapes, default);
            // Readers with one and the same note share it.
            let same = |n: &&mut ReaderNote| n.reason == reason && n.modules == names && n.remedy == remedy;
            match notes.iter_mut().find(same) {
                Some(note) => note.readers.push(reader),
                None => notes.push(ReaderNote { readers: vec![reader], reason, modules: names, remedy }),
            }
        }
    }
    notes
}

/// Rows and columns.
type Shape = (usize, usize);

/// The notes of one reader: reason, names of modules, and their shapes.
struct Found {
    reader: Reader,
    /// Codes are in GPTQ's tensors.
    gptq: bool,
    notes: Vec<(Reason, Vec<String>, Vec<Shape>)>,
}

impl Found {
    fn module(&mut self, module: &GptqModule, settings: &Settings, default: &Settings) {
        let reader = self.reader;
        let (rows, columns) = (module.rows, module.columns);
        let partial = settings.group_size.filter(|size| !columns.is_multiple_of(*size));
        if !reader.bits().contains(&settings.bits) {
            return self.add(module, Reason::Bits(vec![settings.bits]));
        }
        if !reader.group_sizes().contains(&settings.group_size) {
            return self.add(module, Reason::GroupSizes(vec![settings.group_size]));
        }
        match reader {
            // The last kernel takes any shape.
            Reader::GptqModel => {}
            Reader::Transformers => {
                let Some(kernel) = KERNELS.iter().find(|kernel| kernel.takes(default)) else { return };
                match partial {
                    Some(group_size) if kernel.whole_groups => {
                        self.add(module, Reason::PartialGroups { columns: vec![columns], group_size });
                    }
                    _ if !columns.is_multiple_of(kernel.columns) => {
                        let multiple = kernel.columns;
                        self.add(module, Reason::Columns { columns: vec![columns], multiple });
                    }
                    _ if !rows.is_multiple_of(kernel.rows) => {
                        self.add(module, Reason::Rows { rows: vec![rows], multiple: kernel.rows });
                    }
                    _ => {}
                }
            }
            Reader::Vllm => {
                // Its kernels for other packings have zero points of 4 bits.
                if !settings.symmetric && (self.gptq || settings.bits != 4) {
                    self.add(module, Reason::Asymmetric);
                } else if let Some(group_size) = partial {
                    self.add(module, Reason::PartialGroups { columns: vec![columns], group_size });
                }
            }
            Reader::ExLlamaV2 => {
                if !columns.is_multiple_of(32) {
                    self.add(module, Reason::Columns { columns: vec![columns], multiple: 32 });
                } else if partial.is_some() && settings.order == Order::Activation {
                    self.add(module, Reason::OrderOfPartialGroups);
                } else if !settings.symmetric {
                    self.add(module, Reason::ZeroPointZero);
                }
            }
        }
    }

    /// Modules of a block that vLLM joins need one setting.
    fn fused(&mut self, modules: &[GptqModule]) {
        for joined in [&["q_proj", "k_proj", "v_proj"][..], &["gate_proj", "up_proj"]] {
            let mut by_parent: BTreeMap<&str, Vec<&GptqModule>> = BTreeMap::new();
            for module in modules {
                match module.name.rsplit_once('.') {
                    Some((parent, leaf)) if joined.contains(&leaf) => {
                        by_parent.entry(parent).or_default().push(module);
                    }
                    Some(_) | None => {}
                }
            }
            for parts in by_parent.into_values() {
                if parts.iter().any(|part| packing(part) != packing(parts[0])) {
                    parts.into_iter().for_each(|part| self.add(part, Reason::Fused));
                }
            }
        }
    }

    /// Adds a module to the note of its reason.
    fn add(&mut self, module: &GptqModule, reason: Reason) {
        let found = self.notes.iter_mut().find(|(known, ..)| joins(known, &reason));
        let (known, names, shapes) = match found {
            Some(note) => note,
            None => {
                self.notes.push((reason.clone(), Vec::new(), Vec::new()));
                let last = self.notes.len() - 1;
                &mut self.notes[last]
            }
        };
        known.take_in(reason);
        names.push(module.name.clone());
        merge(shapes, vec![(module.rows, module.columns)]);
    }
}

impl Reason {
    /// The group size that notes of this reason are separated by.
    fn partial_group(&self) -> Option<usize> {
        if let Self::PartialGroups { group_size, .. } = self { Some(*group_size) } else { None }
    }

    /// Adds the numbers of another one of the same kind.
    fn take_in(&mut self, other: Self) {
        match self {
            Self::Bits(all) => {
                if let Self::Bits(new) = other {
                    merge(all, new);
                }
            }
            Self::GroupSizes(all) => {
                if let Self::GroupSizes(new) = other {
                    merge(all, new);
                }
            }
            Self::PartialGroups { columns: all, .. }
            | Self::Columns { columns: all, .. }
            | Self::Rows { rows: all, .. } => {
                if let Self::PartialGroups { columns: new, .. }
                | Self::Columns { columns: new, .. }
                | Self::Rows { rows: new, .. } = other
                {
                    merge(all, new);
                }
            }
            Self::Asymmetric
            | Self::ZeroPointZero
            | Self::OrderOfPartialGroups
            | Self::Rules
            | Self::Fused => {}
        }
    }
}

/// Whether two modules of these reasons share a note.
fn joins(a: &Reason, b: &Reason) -> bool {
    std::mem::discriminant(a) == std::mem::discriminant(b) && a.partial_group() == b.partial_group()
}

fn merge<T: PartialEq>(all: &mut Vec<T>, new: Vec<T>) {
    for value in new {
        if !all.contains(&value) {
            all.push(value);
        }
    }
}

/// What must agree between modules that are joined.
fn packing(module: &GptqModule) -> Option<(u32, Option<usize>, bool, bool)> {
    let settings = module.settings.as_ref()?;
    Some((settings.bits, settings.group_size, settings.symmetric, settings.order == Order::Activation))
}

fn remedy(reader: Reader, reason: &Reason, shapes: &[Shape], default: &Settings) -> ReaderRemedy {
    match reason {
        Reason::Bits(_) => ReaderRemedy::Bits(reader.bits()),
        Reason::GroupSizes(_) | Reason::PartialGroups { .. } | Reason::OrderOfPartialGroups => {
            let fits = |group_size: &Option<usize>| {
                let settings = Settings { group_size: *group_size, ..default.clone() };
                let kernel = KERNELS.iter().find(|kernel| kernel.takes(&settings));
                shapes.iter().all(|&(rows, columns)| {
                    let shape = |k: &Kernel| columns.is_multiple_of(k.columns) && rows.is_multiple_of(k.rows);
                    group_size.is_none_or(|size| columns.is_multiple_of(size))
                        && (reader != Reader::Transformers || kernel.is_some_and(shape))
                })
            };
            let sizes: Vec<_> = reader.group_sizes().iter().copied().filter(fits).collect();
            // Only transformers may be left without any.
            if sizes.is_empty() { ReaderRemedy::GptqModel } else { ReaderRemedy::GroupSizes(sizes) }
        }
        Reason::Columns { .. } | Reason::Rows { .. } => match reader {
            // It reads no rules.
            Reader::Transformers => ReaderRemedy::GptqModel,
            Reader::GptqModel | Reader::Vllm | Reader::ExLlamaV2 => ReaderRemedy::LeaveOut,
        },
        Reason::Asymmetric | Reason::ZeroPointZero => ReaderRemedy::Symmetric,
        Reason::Rules => ReaderRemedy::NoRules,
        Reason::Fused => ReaderRemedy::SameSettings,
    }
}

#[cfg(test)]
mod tests;
