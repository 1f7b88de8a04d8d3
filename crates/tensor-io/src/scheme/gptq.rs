//! Reading GPTQ layers: which bits, groups and zero points the tensors of a layer mean.
//!
//! A layer `P` is `P.qweight`, `P.qzeros`, `P.scales` and, in files that are not very old, `P.g_idx`; see
//! [`super::affine`] for shapes. What numbers they hold follows from the shapes; the configuration must
//! agree, unless it has rules for single layers (`dynamic`).

use super::affine::{Affine, Groups, Layout};
use super::label::Label;
use super::parts::{Part, find, need};
use super::{PackedLayer, Store, stream};
use crate::{Checkpoint, ElementType, Error, Result};

/// Types that scales come in.
pub(super) const SCALES: [ElementType; 3] = [ElementType::F16, ElementType::BF16, ElementType::F32];

/// Reads the GPTQ layer of this prefix.
pub(super) fn read(checkpoint: &Checkpoint, prefix: &str, label: Option<&Label>) -> Result<PackedLayer> {
    let qweight = need(checkpoint, prefix, ".qweight")?.of(&[ElementType::I32])?;
    let qzeros = need(checkpoint, prefix, ".qzeros")?.of(&[ElementType::I32])?;
    let scales = need(checkpoint, prefix, ".scales")?.of(&SCALES)?;
    let g_idx = find(checkpoint, prefix, ".g_idx");

    let [_, rows] = qweight.matrix()?;
    let [group_count, _] = scales.matrix()?;
    scales.shaped(&[group_count, rows])?;
    let [_, zero_words] = qzeros.matrix()?;
    qzeros.shaped(&[group_count, zero_words])?;
    let has_data = checkpoint.has_data();
    let listed = g_idx.filter(|_| has_data).map(|part| group_numbers(part, group_count)).transpose()?;
    let (bits, columns) = bits_and_columns(qweight, qzeros, g_idx.map(|g| g.info.elements()), label)?;
    let size = group_size(scales, columns, group_count, label)?;
    // All zero means "none" in some files.
    let listed = listed.filter(|l| l.iter().any(|&g| g != 0));
    let groups = match listed {
        Some(listed) if listed.iter().enumerate().any(|(k, &g)| g as usize != k / size) => {
            Groups::Listed(listed)
        }
        _ => Groups::Even(size),
    };

    let middle = 1 << (bits - 1);
    let symmetric = label.and_then(|l| l.symmetric).unwrap_or(true);
    let labelled_v2 = label.and_then(|l| l.v2).unwrap_or(false);
    let stored = match has_data {
        true => repeated_code(qzeros.data(), zero_words, rows, bits),
        // Headers alone give no data to check, so the label decides.
        false => symmetric.then_some(if labelled_v2 { middle } else { middle - 1 }),
    };
    let v2 = match stored {
        // Of a symmetric model the words themselves say how they are stored; labels have been wrong.
        Some(code) if symmetric && code == middle => true,
        Some(code) if symmetric && code == middle - 1 => false,
        _ => labelled_v2,
    };
    let less = u8::from(!v2);
    let affine = Affine {
        layout: Layout::Gptq { bits, v2 },
        rows,
        columns,
        group_count,
        groups,
        qweight: qweight.index,
        qzeros: qzeros.index,
        scales: scales.index,
        zero: stored.map(|code| code.wrapping_add(less) & stream::mask(bits)),
    };
    let parts = [Some(qweight), Some(qzeros), Some(scales), g_idx];
    Ok(PackedLayer::new(
        format!("{prefix}.weight"),
        rows,
        columns,
        parts.into_iter().flatten(),
        Store::Affine(affine),
    ))
}

/// Reads the AWQ layer of this prefix.
pub(super) fn read_awq(checkpoint: &Checkpoint, prefix: &str, label: Option<&Label>) -> Result<PackedLayer> {
    let qweight = need(checkpoint, prefix, ".qweight")?.of(&[ElementType::I32])?;
    let qzeros = need(checkpoint, prefix, ".qzeros")?.of(&[ElementType::I32])?;
    let scales = need(checkpoint, prefix, ".scales")?.of(&SCALES)?;
    let [columns, words] = qweight.matrix()?;
    let [group_count, rows] = scales.matrix()?;
    if words.checked_mul(8) != Some(rows) {
        let what = format!(
            "has shape {:?}, which does not fit scales of shape {:?}: AWQ's gemm version packs eight of {rows} \
             outputs in a word",
            qweight.info.shape, scales.info.shape
        );
        return Err(qweight.malformed(what));
    }
    qzeros.shaped(&[group_count, words])?;
    let size = group_size(scales, columns, group_count, label)?;
    let affine = Affine {
        layout: Layout::Awq,
        rows,
        columns,
        group_count,
        groups: Groups::Even(size),
        qweight: qweight.index,
        qzeros: qzeros.index,
        scales: scales.index,
        zero: checkpoint.has_data().then(|| repeated_code(qzeros.data(), words, rows, 4)).flatten(),
    };
    let parts = [qweight, qzeros, scales];
    Ok(PackedLayer::new(format!("{prefix}.weight"), rows, columns, parts, Store::Affine(affine)))
}

/// Whether the tensors of this prefix have the shapes of AWQ's gemm version rather than GPTQ's.
pub(super) fn looks_like_awq(checkpoint: &Checkpoint, prefix: &str) -> bool {
    let shape = |suffix| find(checkpoint, prefix, suffix).map(|p| p.info.shape.as_slice());
    match (shape(".qweight"), shape(".scales"), shape(".g_idx")) {
        (Some([_, words]), Some([_, rows]), None) => words.checked_mul(8) == Some(*rows),
        _ => false,
    }
}

/// The group numbers in a `g_idx`, all below `groups`.
pub(super) fn group_numbers(part: Part, groups: usize) -> Result<Vec<u32>> {
    let part = part.of(&[ElementType::I32, ElementType::I64])?;
    if part.info.shape.len() != 1 {
        return Err(part.malformed(format!("has shape {:?}, expected one dimension", part.info.shape)));
    }
    let number = |i: usize, g: i64| {
        u32::try_from(g).ok().filter(|&g| (g as usize) < groups).ok_or_else(|| {
            part.malformed(format!("puts column {i} into group {g}, but there are {groups} groups of scales"))
        })
    };
    let data = part.data();
    match part.info.element_type {
        ElementType::I64 => {
            let values = data.as_chunks().0.iter().map(|&b| i64::from_le_bytes(b));
            values.enumerate().map(|(i, g)| number(i, g)).collect()
        }
        _ => {
            let values = data.as_chunks().0.iter().map(|&b| i64::from(i32::from_le_bytes(b)));
            values.enumerate().map(|(i, g)| number(i, g)).collect()
        }
    }
}

/// Bits per code and the number of columns, from the shapes.
fn bits_and_columns(
    qweight: Part,
    qzeros: Part,
    listed: Option<usize>,
    label: Option<&Label>,
) -> Result<(u32, usize)> {
    let [words, rows] = qweight.matrix()?;
    let [_, zero_words] = qzeros.matrix()?;
    let columns = |bits: u32| match listed {
        Some(columns) => (stream::words(columns, bits) == Some(words)).then_some(columns),
        None => words.checked_mul(32).filter(|n| n.is_multiple_of(bits as usize)).map(|n| n / bits as usize),
    };
    let fits = |&bits: &u32| stream::words(rows, bits) == Some(zero_words);
    let mut possible = [2, 3, 4, 8].into_iter().filter(fits).filter_map(|bits| Some((bits, columns(bits)?)));
    let labelled = label.filter(|l| !l.dynamic).and_then(|l| Some((l.bits?, &l.file)));
    let of = |shape: &[usize]| format!("{shape:?}");
    let (shape, zeros) = (of(&qweight.info.shape), of(&qzeros.info.shape));
    let of_columns = listed.map(|n| format!(" and g_idx of {n} columns")).unwrap_or_default();
    if let Some((bits, file)) = labelled {
        return possible.find(|(b, _)| *b == bits).ok_or_else(|| {
            let what = format!(
                "has shape {shape}, qzeros {zeros}{of_columns}: not {bits}-bit codes, as {} says",
                file.display()
            );
            qweight.malformed(what)
        });
    }
    let preferred = label.and_then(|l| l.bits);
    let possible: Vec<_> = possible.collect();
    let chosen = possible.iter().find(|(b, _)| Some(*b) == preferred).or(possible.first());
    match (chosen, possible.len()) {
        (Some(&chosen), 1) => Ok(chosen),
        (Some(&chosen), _) if Some(chosen.0) == preferred => Ok(chosen),
        (None, _) => Err(qweight.malformed(format!(
            "has shape {shape}, qzeros {zeros}{of_columns}: these do not fit codes of 2, 3, 4 or 8 bits"
        ))),
        (Some(_), _) => Err(qweight.malformed(format!(
            "has shape {shape}, qzeros {zeros}: the number of bits is ambiguous; state it in quantize_config.json"
        ))),
    }
}

/// Columns that share a scale, from the number of groups and the configuration.
fn group_size(scales: Part, columns: usize, groups: usize, label: Option<&Label>) -> Result<usize> {
    let stated = label.and_then(|l| Some(l.group_size?.unwrap_or(columns)));
    if let Some(size) = stated
        && columns.div_ceil(size) == groups
    {
        return Ok(size.min(columns));
    }
    let bad = |what: String| -> Result<usize, Error> { Err(scales.malformed(what)) };
    if let (Some(label), Some(size)) = (label.filter(|l| !l.dynamic), stated) {
        return bad(format!(
            "has {groups} groups for {columns} columns; with the group size of {size} that {} says there would be {}",
            label.file.display(),
            columns.div_ceil(size)
        ));
    }
    if columns.is_multiple_of(groups) {
        return Ok(columns / groups);
    }
    // A last group that is not full: sizes are powers of two then.
    let power = columns.div_ceil(groups).next_power_of_two();
    match columns.div_ceil(power) == groups {
        true => Ok(power),
        false => bad(format!("has {groups} groups, which {columns} columns cannot be divided into")),
    }
}

/// The code that all of `rows` streams of `words` words hold, if it is one: `count` codes each.
fn repeated_code(data: &[u8], words: usize, count: usize, bits: u32) -> Option<u8> {
    let first = data.as_chunks().0.first().map(|&w| u32::from_le_bytes(w))? as u8 & stream::mask(bits);
    let expected = stream::repeated(first, count, bits);
    data.chunks_exact(words * 4).all(|row| row == expected).then_some(first)
}
