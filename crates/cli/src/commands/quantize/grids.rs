//! Models whose values are on a 4-bit grid, in words.

use quern_model::View;
use quern_quantize::job::{GridReport, Grids};
use quern_quantize::recipe::FileType;
use quern_tensor_io::ElementType;
use serde_json::{Value, json};

use crate::messages;
use crate::progress::{Bar, Unit};

/// Finds the tensors of `view` that are on a grid, if `file_type` quantizes.
pub fn find(view: &View<'_>, file_type: FileType, threads: usize) -> anyhow::Result<Grids> {
    if !file_type.is_block() || Grids::seeming(view).is_empty() {
        return Ok(Grids::default());
    }
    Ok(Grids::find(view, threads, &Bar::new(Unit::Bytes, "reading weights on a 4-bit grid"))?)
}

/// Says what becomes of them.
pub fn announce(report: &GridReport, file_type: FileType) {
    let Some(grid) = report.grid else { return };
    let grid = grid.element_type();
    if report.lost > 0 {
        messages::warning(lost(report, grid));
    } else {
        messages::note(kept(report, grid, file_type));
    }
}

/// The same for programs.
pub fn json(report: &GridReport) -> Option<Value> {
    let grid = report.grid?.element_type();
    Some(json!({
        "type": grid.name(),
        "tensors": report.tensors,
        "exact": report.exact,
        "rounded": report.nearly,
        "lost": report.lost,
    }))
}

/// What `quern inspect` says of a model whose rows seem to be on a grid.
pub fn seeming(matrices: usize, grid: ElementType) -> String {
    let have = if matrices == 1 { "1 matrix has its values" } else { "matrices have their values" };
    let count = if matrices == 1 { String::new() } else { format!("{matrices} ") };
    format!(
        "{count}{have} on a {grid} grid, as far as a few rows tell (training for that type, or an earlier quantization); \
         quern quantize --to {grid} keeps them"
    )
}

fn on_grid(report: &GridReport, grid: ElementType) -> String {
    format!(
        "the values of {} of {} matrices are on a {grid} grid (training for that type, or an earlier quantization)",
        report.tensors, report.matrices
    )
}

fn kept(report: &GridReport, grid: ElementType, file_type: FileType) -> String {
    let fate = match (report.exact, report.nearly) {
        (_, 0) => "they are encoded without error".to_owned(),
        (0, _) => "their codes are kept, and the scales rounded to f16".to_owned(),
        (exact, nearly) => {
            format!(
                "{exact} are encoded without error, and {nearly} with the codes kept and scales rounded to f16"
            )
        }
    };
    let smaller = match file_type.default_type() {
        Some(t) if t.block_bytes() * grid.block_elements() > grid.block_bytes() * t.block_elements() => {
            format!("; --to {grid} does the same in fewer bytes")
        }
        _ => String::new(),
    };
    format!("{}: {fate}{smaller}", on_grid(report, grid))
}

fn lost(report: &GridReport, grid: ElementType) -> String {
    format!(
        "{}, and {} of them get a type that does not hold it; --to {grid} encodes them without error",
        on_grid(report, grid),
        report.lost
    )
}

#[cfg(test)]
mod tests {
    use quern_quantize::encode::Grid;

    use super::*;

    #[test]
    fn sentences_say_what_becomes_of_the_grid() {
        let report = GridReport {
            grid: Some(Grid::Q4_0),
            tensors: 28,
            matrices: 29,
            exact: 28,
            ..GridReport::default()
        };
        let start = "the values of 28 of 29 matrices are on a q4_0 grid (training for that type, or an earlier quantization)";
        let said = |report: &GridReport, file_type| kept(report, ElementType::Q4_0, file_type);
        assert_eq!(said(&report, FileType::Q4_0), format!("{start}: they are encoded without error"));
        assert_eq!(
            said(&report, FileType::Q8_0),
            format!("{start}: they are encoded without error; --to q4_0 does the same in fewer bytes")
        );
        let rounded = GridReport { exact: 20, nearly: 8, ..report.clone() };
        assert_eq!(
            said(&rounded, FileType::Q4_0),
            format!(
                "{start}: 20 are encoded without error, and 8 with the codes kept and scales rounded to f16"
            )
        );
        let lost_some = GridReport { exact: 0, lost: 28, ..report };
        assert_eq!(
            lost(&lost_some, ElementType::Q4_0),
            format!(
                "{start}, and 28 of them get a type that does not hold it; --to q4_0 encodes them without error"
            )
        );
        assert_eq!(
            seeming(3, ElementType::Q4_1),
            "3 matrices have their values on a q4_1 grid, as far as a few rows tell (training for that type, or an earlier \
             quantization); quern quantize --to q4_1 keeps them"
        );
    }
}
