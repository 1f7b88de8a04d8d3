//! A comparison as text: tensors, then settings, then the verdict.

use quern_inspect::diff::{
    Diff, Entry, Errors, ListDiff, Lone, Naming, Status, TensorDiff, TensorTotals, Tensors,
};

use crate::format::{self, escape};

/// Tensors and settings that are listed.
const LISTED: usize = 20;

/// All of it; with `every`, the tensors that are the same too.
pub fn describe(found: &Diff, every: bool) -> String {
    let mut text = tensors(&found.tensors, every);
    for (title, entries) in [
        ("configuration", &found.configuration),
        ("config.json", &found.config_json),
        ("metadata", &found.metadata),
        ("generation settings", &found.generation),
        ("tokenizer", &found.tokenizer.settings),
    ] {
        text += &settings(title, entries);
    }
    for (title, list) in [
        ("tokens", &found.tokenizer.tokens),
        ("merges", &found.tokenizer.merges),
        ("scores", &found.tokenizer.scores),
    ] {
        text += &list.as_ref().map(|list| places(title, list)).unwrap_or_default();
    }
    text + "\n" + &verdict(found) + "\n"
}

fn tensors(found: &Tensors, every: bool) -> String {
    let totals = &found.totals;
    let naming = match found.naming {
        Naming::HuggingFace => "names as Hugging Face has them",
        Naming::Gguf => "names as GGUF has them",
        Naming::Files => "names as the files have them",
    };
    let mut text = format!("{:<15} {}; {naming}\n", "tensors", counts(totals));
    if totals.values > 0 {
        text += &format!(
            "{:<15} RMSE {}, relative RMSE {}, cosine {}, over {} values\n",
            "total",
            number(totals.rmse),
            ratio(totals.relative_rmse),
            cosine(totals.cosine),
            format::count(totals.values),
        );
        text += &format!(
            "{:<15} A {} ({:.2} bits a value), B {} ({:.2} bits a value)\n",
            "size",
            format::bytes(totals.bytes_a),
            totals.bits_a,
            format::bytes(totals.bytes_b),
            totals.bits_b,
        );
    }
    if totals.not_finite_a + totals.not_finite_b > 0 {
        text += &format!(
            "{:<15} {} values in A, {} in B: they are left out of the sums\n",
            "not finite", totals.not_finite_a, totals.not_finite_b
        );
    }
    for (side, lone) in [("only in A", &found.only_a), ("only in B", &found.only_b)] {
        text += &alone(side, lone, every);
    }
    let worst = found.worst();
    let (shown, more): (Vec<&TensorDiff>, usize) = match every {
        true => (found.tensors.iter().collect(), 0),
        false => (worst.iter().take(LISTED).copied().collect(), worst.len().saturating_sub(LISTED)),
    };
    if !shown.is_empty() {
        let header = ["tensor", "A", "B", "numbers", "relative RMSE", "RMSE", "cosine", "largest error"];
        let rows = shown.into_iter().map(row);
        text += &format!("\n{}\n", format::table(&header, &[4, 5, 6], rows));
    }
    if more > 0 {
        let more =
            if more == 1 { "1 more tensor differs".into() } else { format!("{more} more tensors differ") };
        text += &format!("{more}; --tensors lists all\n");
    }
    text
}

fn counts(totals: &TensorTotals) -> String {
    let mut parts = vec![format!("{} in both", totals.tensors)];
    for (count, what) in [
        (totals.same_bytes, "with the same bytes"),
        (totals.equal_values, "with equal values in another form"),
        (totals.within_tolerance, "within the tolerance"),
        (totals.different, "different"),
        (totals.shape, "of another shape"),
        (totals.only_a, "only in A"),
        (totals.only_b, "only in B"),
    ] {
        if count > 0 {
            parts.push(format!("{count} {what}"));
        }
    }
    parts.join(", ")
}

/// Tensors of one side; those that make no difference by their reasons.
fn alone(side: &str, lone: &[Lone], every: bool) -> String {
    let mut text = String::new();
    let unexplained: Vec<&Lone> = lone.iter().filter(|l| l.reason.is_none()).collect();
    let most = if every { unexplained.len() } else { LISTED };
    for one in unexplained.iter().take(most) {
        let shape = format::shape(&one.stored.shape);
        text += &format!("{side:<15} {} ({}, {shape})\n", escape::line(&one.name), one.stored.kind);
    }
    if unexplained.len() > most {
        text += &format!("{side:<15} {} more; --tensors lists all\n", unexplained.len() - most);
    }
    let mut reasons: Vec<(&str, usize)> = Vec::new();
    for reason in lone.iter().filter_map(|l| l.reason) {
        match reasons.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, count)) => *count += 1,
            None => reasons.push((reason, 1)),
        }
    }
    for (reason, count) in reasons {
        text += &format!("{side:<15} without effect: {count} {reason}\n");
    }
    text
}

fn row(tensor: &TensorDiff) -> Vec<String> {
    let numbers = match tensor.status {
        Status::SameBytes => "same bytes".to_owned(),
        Status::EqualValues => "equal values".to_owned(),
        Status::WithinTolerance => "within tolerance".to_owned(),
        Status::Different => "different".to_owned(),
        Status::Shape => {
            format!("shape {}, {}", format::shape(&tensor.a.shape), format::shape(&tensor.b.shape))
        }
    };
    let tied = |side: &str| tensor.tied.filter(|tied| *tied == side).map(|_| "embedding, ").unwrap_or("");
    let mut row = vec![
        tensor.name.clone(),
        format!("{}{}", tied("A"), tensor.a.kind),
        format!("{}{}", tied("B"), tensor.b.kind),
        numbers,
    ];
    match &tensor.errors {
        Some(errors) => row.extend([
            ratio(errors.relative_rmse),
            number(errors.rmse),
            cosine(errors.cosine),
            largest(errors),
        ]),
        None => row.extend(["-"; 4].map(str::to_owned)),
    }
    row
}

fn largest(errors: &Errors) -> String {
    let mut text = match (&errors.max_error_at, errors.max_error_a, errors.max_error_b) {
        (Some(at), Some(a), Some(b)) => {
            format!("{} at {at:?}: {} and {}", number(errors.max_error), number(a.into()), number(b.into()))
        }
        _ => "0".to_owned(),
    };
    if let Some(found) = &errors.not_finite {
        text += &format!(
            "; not finite: {} in A, {} in B, {} differ, first at {:?}",
            found.a, found.b, found.different, found.first
        );
    }
    text
}

fn settings(title: &str, entries: &[Entry]) -> String {
    if entries.is_empty() {
        return String::new();
    }
    let none = || "none".to_owned();
    let rows = entries.iter().map(|entry| {
        let note = if entry.counts { String::new() } else { "information".to_owned() };
        let (a, b) = (entry.a.clone().unwrap_or_else(none), entry.b.clone().unwrap_or_else(none));
        vec![entry.key.clone(), a, b, note]
    });
    format!("\n{}\n", format::table(&[title, "A", "B", ""], &[], rows))
}

fn places(title: &str, list: &ListDiff) -> String {
    let mut text = format!("\n{title}: {} in A, {} in B, {} places differ\n", list.a, list.b, list.different);
    for item in &list.first {
        let of = |text: &Option<String>| {
            text.as_deref().map_or_else(|| "none".to_owned(), |text| escape::line(text).into_owned())
        };
        text += &format!("  {:<8} {}   {}\n", item.id, of(&item.a), of(&item.b));
    }
    if list.different > list.first.len() {
        text += &format!("  … {} more\n", list.different - list.first.len());
    }
    text
}

fn verdict(found: &Diff) -> String {
    let tokenizer = &found.tokenizer;
    let of = [
        ("configuration", &found.configuration),
        ("config.json", &found.config_json),
        ("metadata", &found.metadata),
        ("generation settings", &found.generation),
    ];
    let counted = |entries: &[Entry]| entries.iter().any(|entry| entry.counts);
    let mut parts: Vec<&str> = if found.tensors.same() { Vec::new() } else { vec!["tensors"] };
    parts.extend(of.iter().filter(|(_, entries)| counted(entries)).map(|(name, _)| *name));
    if !tokenizer.same() {
        parts.push("tokenizer");
    }
    let information = of.iter().map(|(_, entries)| *entries).chain([&tokenizer.settings]);
    let information = information.flatten().filter(|entry| !entry.counts).count();
    match (parts.as_slice(), information) {
        ([], 0) => "same".to_owned(),
        ([], n) => {
            format!("same; {n} of the settings above differ, which say how the files were made and stored")
        }
        (parts, _) => format!("different: {}", parts.join(", ")),
    }
}

/// Three significant digits.
fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        0.001..1e5 => format!("{value:.5}"),
        _ => format!("{value:.2e}"),
    }
}

fn ratio(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), number)
}

/// Digits enough to tell a small error from none.
fn cosine(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.7}"))
}
