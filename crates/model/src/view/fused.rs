//! The experts of families whose Hugging Face files hold all of them in one tensor, transposed, the rows of several roles in
//! turn ([`AliasLayout::Woven`]) or one role after the other ([`AliasLayout::Beside`]): such a tensor made of matrices and
//! vectors that are apart.
//!
//! ```text
//! parts    of each expert one for each role: [rows][columns], or [rows] of biases
//! tensor   [experts, columns, roles * rows], or [experts, roles * rows]
//!          its value (e, c, roles * r + w), or (e, c, rows * w + r), is value (r, c) of the part of expert e and role w
//! ```
//!
//! Parts that are blocks or packed are decoded to f32, whole parts at a time: rows of one expert should be read together
//! ([`ViewTensor::together`]).

use std::collections::HashMap;
use std::ops::Range;

use quern_tensor_io::{ElementType, decode};

use crate::architecture::{AliasLayout, Layout, TensorRole as Role};
use crate::config::{Config, ExpectedTensor};
use crate::contents::{Contents, HeldTensor, Place, Span, Woven};

use super::data::{Data, Part, read_part};
use super::order::RowOrder;
use super::stored::described_one;
use super::values::{row_bytes, tensor_as_it_is, tensor_of};
use super::{View, ViewTensor, mxfp4};

/// Rows of a part that are taken together: they fit in a core's cache.
const TOGETHER: usize = 32;

/// A tensor with the parts that it is made of.
#[derive(Debug)]
pub(super) struct Fused<'a> {
    /// Of each expert one for each role.
    parts: Vec<Part<'a>>,
    roles: usize,
    /// Rows of the roles follow each other role by role, not in turn.
    beside: bool,
    /// Of a part; those of a vector are of one value.
    rows: usize,
    columns: usize,
    /// The type of the parts' rows.
    stored: ElementType,
}

/// One part, the type of its rows and the tensor or layer it comes from.
pub(super) type Source<'a> = (Part<'a>, ElementType, String);

/// The name under which a family's files hold all experts of this role, how many roles they hold in turn and which of
/// them it is.
pub(super) fn woven(config: &Config, role: Role) -> Option<(&'static str, usize, usize)> {
    let aliases = config.architecture.hf_aliases.iter().filter(|_| config.architecture.hf_woven);
    aliases.filter(|alias| alias.role == role).find_map(|alias| match alias.layout {
        AliasLayout::Woven { of, which } | AliasLayout::Beside { of, which } => Some((alias.name, of, which)),
        AliasLayout::Same | AliasLayout::Stack { .. } | AliasLayout::Grouped { .. } => None,
    })
}

/// As [`woven`], of roles whose matrices are below each other.
pub(super) fn below(config: &Config, role: Role) -> Option<(&'static str, usize, usize)> {
    let aliases = config.architecture.hf_aliases.iter().filter(|_| config.architecture.hf_woven);
    aliases.filter(|alias| alias.role == role).find_map(|alias| match alias.layout {
        AliasLayout::Stack { of, which } => Some((alias.name, of, which)),
        AliasLayout::Same
        | AliasLayout::Woven { .. }
        | AliasLayout::Beside { .. }
        | AliasLayout::Grouped { .. } => None,
    })
}

/// The name under which a family's files hold queries, keys and values together, and which of them this role is.
pub(super) fn grouped(config: &Config, role: Role) -> Option<(&'static str, usize)> {
    let aliases = config.architecture.hf_aliases.iter().filter(|_| config.architecture.hf_woven);
    aliases.filter(|alias| alias.role == role).find_map(|alias| match alias.layout {
        AliasLayout::Grouped { which } => Some((alias.name, which)),
        AliasLayout::Same
        | AliasLayout::Stack { .. }
        | AliasLayout::Woven { .. }
        | AliasLayout::Beside { .. } => None,
    })
}

/// The tensor that holds queries (`want`), keys and values of each key head together, of those that are apart: `find` gives
/// the rows of one head, in the order of GGUF. `None` if one is missing or of another type than the others.
pub(super) fn heads<'a>(
    config: &Config,
    want: &ExpectedTensor,
    mut find: impl FnMut(Role, usize) -> Option<Source<'a>>,
) -> Option<(ViewTensor, Data<'a>)> {
    let (name, _) = grouped(config, want.role)?;
    let &[_, columns] = want.shape.as_slice() else { return None };
    let Config { heads, kv_heads, head_dim, .. } = *config;
    let queries = heads / kv_heads;
    let (mut parts, mut sources, mut stored) = (Vec::new(), Vec::new(), None);
    for group in 0..kv_heads {
        let own = (0..queries).map(|query| (Role::AttentionQ, group * queries + query));
        for (role, head) in own.chain([(Role::AttentionK, group), (Role::AttentionV, group)]) {
            let (part, element_type, source) = find(role, head)?;
            if *stored.get_or_insert(element_type) != element_type {
                return None;
            }
            let template = config.architecture.tensors.iter().find(|t| t.role == role)?;
            parts.push((part, RowOrder::to_hugging_face(template, config)));
            if !sources.contains(&source) {
                sources.push(source);
            }
        }
    }
    let shape = vec![(heads + 2 * kv_heads) * head_dim, columns];
    let whole =
        ExpectedTensor { name: config.fill(name, want.layer, None)?, shape, part: None, ..want.clone() };
    let packed = parts.iter().any(|(part, _)| matches!(part, Part::Packed { .. }));
    let tensor = ViewTensor { packed, layout: Layout::Same, ..tensor_of(&whole, stored?, sources) };
    Some((tensor, Data::Heads { parts, height: head_dim }))
}

/// The tensor that holds `want`, the first of a role [`below`] others, with all of them; `find` gives the part of a role
/// and an expert, or all there is. `None` if a part is missing, or of another type than the others.
pub(super) fn stack<'a>(
    config: &Config,
    want: &ExpectedTensor,
    mut find: impl FnMut(Role, Option<usize>) -> Option<Source<'a>>,
) -> Option<(ViewTensor, Data<'a>)> {
    let (name, of, _) = below(config, want.role)?;
    let aliases = || config.architecture.hf_aliases.iter().filter(|alias| alias.name == name);
    let at = |which| aliases().find(|alias| alias.layout == AliasLayout::Stack { of, which });
    let roles: Vec<Role> = (0..of).filter_map(at).map(|alias| alias.role).collect();
    let experts = want.part.and(config.experts).map(|experts| experts.count);
    let numbers: Vec<Option<usize>> = match experts {
        Some(count) => (0..count).map(Some).collect(),
        None => vec![None],
    };
    let &[rows, columns] = want.shape.as_slice() else { return None };
    let (mut parts, mut sources, mut stored) = (Vec::new(), Vec::new(), None);
    for number in numbers {
        for &role in &roles {
            let (part, element_type, source) = find(role, number)?;
            if *stored.get_or_insert(element_type) != element_type {
                return None;
            }
            parts.push(part);
            sources.push(source);
        }
    }
    sources.dedup();
    let shape: Vec<usize> = experts.into_iter().chain([of * rows, columns]).collect();
    let whole =
        ExpectedTensor { name: config.fill(name, want.layer, None)?, shape, part: None, ..want.clone() };
    let packed = parts.iter().any(|part| matches!(part, Part::Packed { .. }));
    let tensor = ViewTensor { packed, layout: want.template.layout, ..tensor_of(&whole, stored?, sources) };
    Some((tensor, Data::Rows { parts, order: None }))
}

/// The roles in the tensor of this name, in turn.
fn roles_of(config: &Config, name: &str, of: usize) -> Vec<Role> {
    let aliases = || config.architecture.hf_aliases.iter().filter(|alias| alias.name == name);
    let at = |which| {
        let layouts = [AliasLayout::Woven { of, which }, AliasLayout::Beside { of, which }];
        aliases().find(|alias| layouts.contains(&alias.layout)).map(|alias| alias.role)
    };
    (0..of).filter_map(at).collect()
}

/// The tensor that holds `want`, the first expert's of a [`woven`] role, with all others; `find` gives the part of a role
/// and an expert. `None` if a part is missing, of another type than the others, or cannot be decoded.
pub(super) fn fused<'a>(
    config: &Config,
    want: &ExpectedTensor,
    mut find: impl FnMut(Role, usize) -> Option<Source<'a>>,
) -> Option<(ViewTensor, Data<'a>)> {
    let (name, of, _) = woven(config, want.role)?;
    let roles = roles_of(config, name, of);
    let experts = config.experts.as_ref()?.count;
    let (rows, columns) = match *want.shape.as_slice() {
        [rows, columns] => (rows, Some(columns)),
        [values] => (values, None),
        _ => return None,
    };
    let (mut parts, mut sources, mut stored) = (Vec::new(), Vec::new(), None);
    for expert in 0..experts {
        for &role in &roles {
            let (part, element_type, source) = find(role, expert)?;
            if *stored.get_or_insert(element_type) != element_type {
                return None;
            }
            parts.push(part);
            sources.push(source);
        }
    }
    let stored = stored?;
    sources.dedup();
    let element_type = if stored.is_block() { ElementType::F32 } else { stored };
    if stored.is_block() && !decode::can_decode(stored) {
        return None;
    }
    let wide = of * rows;
    let shape = columns.map_or_else(|| vec![experts, wide], |columns| vec![experts, columns, wide]);
    let packed = parts.iter().any(|part| matches!(part, Part::Packed { .. }));
    let tensor = ViewTensor {
        name: config.fill(name, want.layer, None)?,
        row_bytes: row_bytes(element_type, &shape),
        shape,
        element_type,
        sources,
        role: Some(want.role),
        layer: want.layer,
        part: None,
        layout: want.template.layout,
        place: None,
        packed,
        changed: None,
        together: columns.unwrap_or(1),
    };
    let columns = columns.unwrap_or(1);
    let beside = config.architecture.hf_aliases.iter().any(|alias| {
        alias.role == want.role && alias.name == name && matches!(alias.layout, AliasLayout::Beside { .. })
    });
    Some((tensor, Data::Fused(Fused { parts, roles: roles.len(), beside, rows, columns, stored })))
}

impl<'a> Fused<'a> {
    /// The same parts as the two tensors of the family's released form, if they are blocks of MXFP4.
    pub fn as_released(&self, tensor: &ViewTensor) -> Option<[(ViewTensor, Data<'a>); 2]> {
        (self.stored == ElementType::MXFP4 && !self.beside)
            .then(|| mxfp4::split(tensor, &self.parts, self.roles))
            .flatten()
    }
}

impl<'a> Fused<'a> {
    pub fn read(&self, view: &View<'_>, rows: Range<usize>, out: &mut [u8]) {
        let &Self { roles, beside, columns, stored, .. } = self;
        let size = if stored.is_block() { 4 } else { stored.block_bytes() };
        let wide = roles * self.rows * size;
        let mut at = rows.start;
        let mut out = out.chunks_exact_mut(wide.max(1));
        let mut whole = Vec::new();
        while at < rows.end {
            let (expert, first) = (at / columns, at % columns);
            let count = (columns - first).min(rows.end - at);
            let mut own: Vec<&mut [u8]> = out.by_ref().take(count).collect();
            for (which, part) in self.parts[expert * roles..(expert + 1) * roles].iter().enumerate() {
                let values = self.values(view, part, &mut whole);
                for some in (0..self.rows).step_by(TOGETHER) {
                    let some = some..self.rows.min(some + TOGETHER);
                    for (column, out) in (first..).zip(own.iter_mut()) {
                        for row in some.clone() {
                            let value = &values[(row * columns + column) * size..][..size];
                            let at = if beside { which * self.rows + row } else { row * roles + which };
                            out[at * size..][..size].copy_from_slice(value);
                        }
                    }
                }
            }
            at += count;
        }
    }

    /// All values of a part, `[rows][columns]`: where they are, or made in `whole`.
    fn values<'v>(&self, view: &View<'_>, part: &'v Part<'a>, whole: &'v mut Vec<u8>) -> &'v [u8] {
        let &Self { rows, columns, stored, .. } = self;
        if let (Part::Bytes(data), false) = (part, stored.is_block()) {
            return data;
        }
        let row_bytes = stored.row_bytes(columns).unwrap_or_default();
        let mut read = vec![0; rows * row_bytes];
        read_part(view, part, None, row_bytes, 0..rows, &mut read);
        if !stored.is_block() {
            *whole = read;
            return whole;
        }
        let mut values = vec![0.0; rows * columns];
        // Types without a decoder were refused when the tensor was made.
        let _ = decode::to_f32(stored, &read, &mut values);
        *whole = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        whole
    }

    /// All bytes of the map that it comes from, once its last row is read.
    pub fn spans(&self, last: bool) -> Vec<&'a [u8]> {
        let parts = self.parts.iter().filter(|_| last);
        parts
            .filter_map(|part| match part {
                Part::Bytes(data) | Part::Woven { data, .. } => Some(*data),
                Part::Packed { .. } => None,
            })
            .collect()
    }
}

/// What a checkpoint of such a family holds as its unquantized files hold it, packed layers decoded.
pub(super) fn as_files(contents: Contents<'_>) -> View<'_> {
    let (checkpoint, config) = (contents.checkpoint(), contents.config().clone());
    let held = contents.tensors().to_vec();
    let (mut tensors, mut data) = (Vec::new(), Vec::new());
    let by_key: HashMap<_, _> =
        held.iter().map(|t| ((t.expected.role, t.expected.layer, t.expected.part), t.place)).collect();
    for HeldTensor { expected, place } in &held {
        let in_turn = woven(&config, expected.role);
        let together = grouped(&config, expected.role).map(|(name, which)| (name, 3, which));
        // Packed one by one they stay apart.
        let together = together.filter(|_| matches!(place, Place::Woven(_)));
        let several = in_turn.or_else(|| below(&config, expected.role)).or(together);
        let Some((name, _, which)) = several else {
            let (tensor, one) = described_one(checkpoint, contents.packing(), expected, *place);
            tensors.push(tensor);
            data.push(one);
            continue;
        };
        if which != 0 || expected.part.is_some_and(|part| part > 0) {
            continue;
        }
        // As it is, where the file has it.
        if let Place::Woven(Woven { span, .. }) | Place::Plain(span) = *place
            && let info = span.info(checkpoint)
            && config.fill(name, expected.layer, None).is_some_and(|name| info.name.ends_with(&name))
        {
            let whole = Span { tensor: span.tensor, start: 0, bytes: info.bytes };
            let tensor = ViewTensor {
                name: config.fill(name, expected.layer, None).unwrap_or_default(),
                role: Some(expected.role),
                layer: expected.layer,
                place: Some(Place::Plain(whole)),
                ..tensor_as_it_is(info, span.tensor)
            };
            tensors.push(tensor);
            data.push(Data::plain(checkpoint.data(info)));
            continue;
        }
        let source = |role, expert| {
            let place = *by_key.get(&(role, expected.layer, expert))?;
            Some(match place {
                Place::Plain(span) => {
                    let info = span.info(checkpoint);
                    (Part::Bytes(span.data(checkpoint)), info.element_type, info.name.clone())
                }
                Place::Woven(woven) => {
                    let (info, data) = (woven.span.info(checkpoint), woven.span.data(checkpoint));
                    let stored = info.element_type;
                    (Part::Woven { data, woven, stored }, stored, info.name.clone())
                }
                Place::Packed(layer) | Place::PackedRows { layer, .. } => {
                    let name = contents.packing()?.layers().get(layer)?.name.clone();
                    let first = if let Place::PackedRows { first, .. } = place { first } else { 0 };
                    (Part::Packed { layer, first, form: None }, ElementType::F32, name)
                }
            })
        };
        let made = match in_turn {
            Some(_) => fused(&config, expected, |role, expert| source(role, Some(expert))),
            None => stack(&config, expected, source),
        };
        if let Some((tensor, one)) = made {
            tensors.push(tensor);
            data.push(one);
        }
    }
    super::stored::view_of(contents, tensors, data)
}
