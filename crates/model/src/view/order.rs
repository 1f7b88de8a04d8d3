//! The order of one format's rows in the other's tensors.

use crate::Config;
use crate::architecture::{Convention, Layout, TensorRole, TensorTemplate};
use crate::config::DeltaNet;

/// A permutation of a tensor's rows: where each row of the view is in the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RowOrder {
    /// The source has each head's rows half-split, the view interleaved; heads have this many rows.
    Interleave(usize),
    /// The other way round.
    HalfSplit(usize),
    /// The source has queries, keys and values group by group; the view all queries, all keys, all values.
    Gather(Groups),
    /// The other way round.
    Scatter(Groups),
    /// The source has the value heads of one key head together, the view the first of each, then the second of each.
    Tile(ValueHeads),
    /// The other way round.
    Untile(ValueHeads),
    /// The source has `all` rows for each head, of which the view has `own`, behind the first `before`.
    Part {
        /// Rows of a head in the view.
        own: usize,
        /// Rows in front of them in the source.
        before: usize,
        /// Rows of a head in the source.
        all: usize,
    },
    /// Row by row.
    Listed(Vec<u32>),
    /// The source has these rows before the view's first.
    Behind(usize),
    /// The source has queries, keys, values and gates of one key head together; the view all queries, all keys and all
    /// values.
    DeltaInQkv(DeltaRows),
    /// The same, of which the view has the gates.
    DeltaInGate(DeltaRows),
}

/// Rows of one key head of a delta net, in a matrix of queries, keys, values and gates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DeltaRows {
    /// Key heads.
    key_heads: usize,
    /// Rows of a query or key head.
    key: usize,
    /// Rows of the value heads of one key head.
    values: usize,
}

/// How the value heads of a delta net are arranged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ValueHeads {
    /// Rows in front of them, which stay where they are.
    pub first: usize,
    /// Key heads.
    pub key_heads: usize,
    /// Value heads of each.
    pub per_key: usize,
    /// Rows of a value head.
    pub rows: usize,
}

/// How query, key and value rows are arranged in one matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Groups {
    /// Query heads.
    pub heads: usize,
    /// Key heads, and groups.
    pub kv_heads: usize,
    /// Rows of a head.
    pub head_dim: usize,
}

impl RowOrder {
    /// What `layout` means for rows that come from a Hugging Face checkpoint.
    pub fn from_hugging_face(template: &TensorTemplate, config: &Config) -> Option<Self> {
        match template.layout {
            Layout::QueryHeads | Layout::KeyHeads => Some(Self::Interleave(config.head_dim)),
            Layout::QkvByHead => Some(Self::Gather(Groups::of(config))),
            Layout::DeltaQkv | Layout::DeltaConv => {
                ValueHeads::of(config, |net| (net.width() - net.values(), net.value_dim))
            }
            Layout::DeltaValues => ValueHeads::of(config, |net| (0, net.value_dim)),
            Layout::DeltaHeads | Layout::DeltaDecay => ValueHeads::of(config, |_| (0, 1)),
            Layout::ValueUp => config.latent.map(|latent| Self::Part {
                own: latent.value_dim,
                before: latent.nope_dim,
                all: latent.nope_dim + latent.value_dim,
            }),
            Layout::DeltaInQkv => DeltaRows::of(config).map(Self::DeltaInQkv),
            Layout::DeltaInGate => DeltaRows::of(config).map(Self::DeltaInGate),
            Layout::GateRows => Some(Self::Behind(0)),
            Layout::UpRows => template.shape.first().map(|&rows| Self::Behind(config.size(rows))),
            Layout::Same
            | Layout::Transposed
            | Layout::PlusOne
            | Layout::Experts
            | Layout::HeadNorms
            | Layout::Conv
            | Layout::Flat
            | Layout::FlatDecay
            | Layout::DeltaColumns
            | Layout::Multiplied
            | Layout::KeyUp => None,
        }
    }

    /// The same for columns.
    pub fn columns_from_hugging_face(layout: Layout, config: &Config) -> Option<Self> {
        match layout {
            Layout::DeltaColumns => ValueHeads::of(config, |net| (0, net.value_dim)),
            Layout::Same
            | Layout::QueryHeads
            | Layout::KeyHeads
            | Layout::KeyUp
            | Layout::ValueUp
            | Layout::Transposed
            | Layout::PlusOne
            | Layout::Experts
            | Layout::HeadNorms
            | Layout::QkvByHead
            | Layout::Conv
            | Layout::Flat
            | Layout::FlatDecay
            | Layout::DeltaQkv
            | Layout::DeltaConv
            | Layout::DeltaValues
            | Layout::DeltaHeads
            | Layout::DeltaDecay
            | Layout::DeltaInQkv
            | Layout::DeltaInGate
            | Layout::GateRows
            | Layout::UpRows
            | Layout::Multiplied => None,
        }
    }

    /// The way back.
    pub fn columns_to_hugging_face(layout: Layout, config: &Config) -> Option<Self> {
        Self::columns_from_hugging_face(layout, config).map(Self::back)
    }

    /// The way back.
    pub fn to_hugging_face(template: &TensorTemplate, config: &Config) -> Option<Self> {
        Self::from_hugging_face(template, config).map(Self::back)
    }

    fn back(self) -> Self {
        match self {
            Self::Interleave(head) => Self::HalfSplit(head),
            Self::HalfSplit(head) => Self::Interleave(head),
            Self::Gather(groups) => Self::Scatter(groups),
            Self::Scatter(groups) => Self::Gather(groups),
            Self::Tile(heads) => Self::Untile(heads),
            Self::Untile(heads) => Self::Tile(heads),
            // Joined with other parts in another way (`super::latent`, `super::joined`).
            part @ (Self::Part { .. } | Self::Behind(_) | Self::DeltaInQkv(_) | Self::DeltaInGate(_)) => part,
            Self::Listed(rows) => Self::Listed(rows),
        }
    }

    /// The source's row for `row` of the view.
    pub fn source(&self, row: usize) -> usize {
        match self {
            // Pair `i` of a head of `d` rows is rows `2i` and `2i + 1` interleaved, `i` and `i + d/2` half-split.
            &Self::Interleave(head) => {
                let (start, within) = (row / head * head, row % head);
                start + within / 2 + within % 2 * (head / 2)
            }
            &Self::HalfSplit(head) => {
                let (start, within, half) = (row / head * head, row % head, head / 2);
                start + within % half * 2 + within / half
            }
            Self::Gather(groups) => groups.grouped(row),
            Self::Scatter(groups) => groups.gathered(row),
            Self::Tile(heads) => heads.grouped(row),
            Self::Untile(heads) => heads.tiled(row),
            &Self::Part { own, before, all } => row / own * all + before + row % own,
            Self::Listed(rows) => rows.get(row).map_or(row, |&row| row as usize),
            &Self::Behind(before) => before + row,
            Self::DeltaInQkv(rows) => rows.of_qkv(row),
            Self::DeltaInGate(rows) => rows.of_gate(row),
        }
    }
}

impl Config {
    /// The order that GGUF has the columns of this role's matrix in, where a checkpoint of this configuration has them in
    /// another: column `i` of GGUF is column `order[i]` of the checkpoint's.
    pub fn gguf_column_order(&self, role: TensorRole) -> Option<Vec<u32>> {
        if self.convention == Convention::Gguf {
            return None;
        }
        let template = self.architecture.tensors.iter().find(|template| template.role == role)?;
        let order = RowOrder::columns_from_hugging_face(template.layout, self)?;
        let columns = self.size(*template.shape.last()?);
        Some((0..columns).map(|column| order.source(column) as u32).collect())
    }
}

impl DeltaRows {
    fn of(config: &Config) -> Option<Self> {
        let net = config.delta_net()?;
        let values = net.value_heads / net.key_heads * net.value_dim;
        Some(Self { key_heads: net.key_heads, key: net.key_dim, values })
    }

    /// Rows of one key head.
    fn group(self) -> usize {
        2 * (self.key + self.values)
    }

    /// The place of row `row` of all queries, all keys and all values.
    fn of_qkv(self, row: usize) -> usize {
        let keys = self.key_heads * self.key;
        let (row, size, before) = match row {
            row if row < keys => (row, self.key, 0),
            row if row < 2 * keys => (row - keys, self.key, self.key),
            row => (row - 2 * keys, self.values, 2 * self.key),
        };
        row / size * self.group() + before + row % size
    }

    /// The place of row `row` of all gates.
    fn of_gate(self, row: usize) -> usize {
        row / self.values * self.group() + 2 * self.key + self.values + row % self.values
    }
}

impl ValueHeads {
    /// With the rows in front, and of a head; `None` where the order is the same.
    fn of(config: &Config, sizes: impl Fn(&DeltaNet) -> (usize, usize)) -> Option<RowOrder> {
        let net = config.delta_net()?;
        let per_key = net.value_heads / net.key_heads;
        let (first, rows) = sizes(net);
        let heads = Self { first, key_heads: net.key_heads, per_key, rows };
        (per_key > 1 && net.key_heads > 1).then_some(RowOrder::Tile(heads))
    }

    /// The place of row `row` of tiled heads where those of one key head are together.
    fn grouped(self, row: usize) -> usize {
        let Some(row) = row.checked_sub(self.first) else { return row };
        let (head, within) = (row / self.rows, row % self.rows);
        let (turn, key) = (head / self.key_heads, head % self.key_heads);
        self.first + (key * self.per_key + turn) * self.rows + within
    }

    /// The way back.
    fn tiled(self, row: usize) -> usize {
        let Some(row) = row.checked_sub(self.first) else { return row };
        let (head, within) = (row / self.rows, row % self.rows);
        let (key, turn) = (head / self.per_key, head % self.per_key);
        self.first + (turn * self.key_heads + key) * self.rows + within
    }
}

impl Groups {
    fn of(config: &Config) -> Self {
        Self { heads: config.heads, kv_heads: config.kv_heads, head_dim: config.head_dim }
    }

    /// The place of row `row` of all queries, keys, values when stored by group. A group has its query heads, then
    /// a key head, then a value head.
    fn grouped(self, row: usize) -> usize {
        let (head, within) = (row / self.head_dim, row % self.head_dim);
        let queries = self.heads / self.kv_heads;
        let (group, place) = match head.checked_sub(self.heads) {
            None => (head / queries, head % queries),
            Some(key) if key < self.kv_heads => (key, queries),
            Some(value) => (value - self.kv_heads, queries + 1),
        };
        (group * (queries + 2) + place) * self.head_dim + within
    }

    /// The way back.
    fn gathered(self, row: usize) -> usize {
        let (head, within) = (row / self.head_dim, row % self.head_dim);
        let queries = self.heads / self.kv_heads;
        let (group, place) = (head / (queries + 2), head % (queries + 2));
        let head = match place.checked_sub(queries) {
            None => group * queries + place,
            Some(0) => self.heads + group,
            Some(_) => self.heads + self.kv_heads + group,
        };
        head * self.head_dim + within
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_interleaved_one_by_one() {
        let order: Vec<usize> = (0..12).map(|r| RowOrder::Interleave(6).source(r)).collect();
        assert_eq!(order, [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]);
    }

    #[test]
    fn groups_are_gathered_by_kind() {
        // Two groups of two query heads of one row: q0 q1 k0 v0 q2 q3 k1 v1.
        let groups = Groups { heads: 4, kv_heads: 2, head_dim: 1 };
        let order: Vec<usize> = (0..8).map(|r| RowOrder::Gather(groups).source(r)).collect();
        assert_eq!(order, [0, 1, 4, 5, 2, 6, 3, 7]);
    }

    #[test]
    fn value_heads_are_tiled_behind_what_stays() {
        let values = ValueHeads { first: 1, key_heads: 2, per_key: 3, rows: 1 };
        let order: Vec<usize> = (0..7).map(|r| RowOrder::Tile(values).source(r)).collect();
        assert_eq!(order, [0, 1, 4, 2, 5, 3, 6]);
    }

    #[test]
    fn every_order_has_its_way_back() {
        let groups = Groups { heads: 6, kv_heads: 3, head_dim: 4 };
        let values = ValueHeads { first: 4, key_heads: 3, per_key: 2, rows: 5 };
        let pairs = [
            (RowOrder::Interleave(8), RowOrder::HalfSplit(8), 24),
            (RowOrder::Gather(groups), RowOrder::Scatter(groups), 48),
            (RowOrder::Tile(values), RowOrder::Untile(values), 4 + 3 * 2 * 5),
        ];
        for (there, back, rows) in pairs {
            for row in 0..rows {
                assert_eq!(there.source(back.source(row)), row, "{there:?}");
                assert_eq!(back.source(there.source(row)), row, "{back:?}");
            }
        }
    }
}
