//! What an expression asks for, measured before it is compiled.

use fancy_regex::{Assertion, Expr, LookAround};

use super::PatternError;

/// More parentheses than this are refused: the engines keep two numbers for each in every state.
const MOST_GROUPS: usize = 200;
/// Parentheses and brackets within each other; fancy-regex itself stops at 64.
const DEEPEST: usize = 60;
/// The largest number in `{n,m}`.
const MOST_REPEATS: usize = 1000;
/// The size of the automaton that an expression describes, in single characters; a class of letters counts as many.
const LARGEST: usize = 16 << 10;
/// How many characters a class such as `\p{L}` or `\w` counts as.
const CLASS: usize = 48;

/// Checks what the text of an expression shows, without recursion.
pub(super) fn check_text(pattern: &str, longest: usize) -> Result<(), PatternError> {
    if pattern.len() > longest {
        return Err(PatternError::new(format!(
            "it has {} bytes, and at most {longest} are allowed",
            pattern.len()
        )));
    }
    let (mut groups, mut depth, mut deepest, mut escaped) = (0, 0usize, 0, false);
    for byte in pattern.bytes() {
        match byte {
            _ if escaped => {
                escaped = false;
                continue;
            }
            b'\\' => escaped = true,
            b'(' | b'[' => {
                groups += 1;
                depth += 1;
                deepest = deepest.max(depth);
            }
            b')' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    if groups > MOST_GROUPS {
        return Err(PatternError::new(format!(
            "it has {groups} groups and classes, and at most {MOST_GROUPS} are allowed"
        )));
    }
    if deepest > DEEPEST {
        return Err(PatternError::new(format!(
            "it has {deepest} groups within each other, and at most {DEEPEST} are allowed"
        )));
    }
    Ok(())
}

/// Checks the size of what a parsed expression describes, with its repetitions written out.
pub(super) fn check_size(expression: &Expr) -> Result<usize, PatternError> {
    let size = size(expression)?;
    match size > LARGEST {
        true => Err(too_large()),
        false => Ok(size),
    }
}

fn too_large() -> PatternError {
    PatternError::new("it is too large once its repetitions are written out")
}

/// The parser does not nest deeper than 64, so this does not either.
fn size(expression: &Expr) -> Result<usize, PatternError> {
    let sum = |all: &[Expr]| all.iter().try_fold(1usize, |sum, one| Ok(sum.saturating_add(size(one)?)));
    Ok(match expression {
        Expr::Literal { val, .. } => val.len(),
        Expr::Delegate { inner, .. } => {
            let classes = ["\\p", "\\P", "\\w", "\\W", "[:"].map(|class| inner.matches(class).count());
            inner.len() + CLASS * classes.iter().sum::<usize>()
        }
        Expr::Concat(all) | Expr::Alt(all) => sum(all)?,
        Expr::Group(inner) | Expr::LookAround(inner, _) | Expr::AtomicGroup(inner) => {
            size(inner)?.saturating_add(1)
        }
        Expr::Repeat { child, lo, hi, .. } => {
            let times = if *hi == usize::MAX { (*lo).max(1) } else { (*hi).max(*lo) };
            if times > MOST_REPEATS {
                return Err(PatternError::new(format!(
                    "it repeats a part {times} times, and at most {MOST_REPEATS} are allowed"
                )));
            }
            size(child)?.saturating_add(1).saturating_mul(times.max(1))
        }
        Expr::Conditional { condition, true_branch, false_branch } => {
            let branches = size(true_branch)?.saturating_add(size(false_branch)?);
            size(condition)?.saturating_add(branches)
        }
        // One instruction each.
        Expr::Empty
        | Expr::Any { .. }
        | Expr::Assertion(_)
        | Expr::Backref { .. }
        | Expr::BackrefWithRelativeRecursionLevel { .. }
        | Expr::KeepOut
        | Expr::ContinueFromPreviousMatchEnd
        | Expr::BackrefExistsCondition(_)
        | Expr::SubroutineCall(_)
        | Expr::UnresolvedNamedSubroutineCall { .. } => 1,
    })
}

/// Whether an automaton can search for it: nothing in it looks around, back, or keeps what it has taken.
pub(super) fn is_regular(expression: &Expr) -> bool {
    match expression {
        Expr::Empty | Expr::Any { .. } | Expr::Literal { .. } | Expr::Delegate { .. } => true,
        Expr::Assertion(assertion) => matches!(
            assertion,
            Assertion::StartText
                | Assertion::EndText
                | Assertion::StartLine { .. }
                | Assertion::EndLine { .. }
        ),
        Expr::Concat(all) | Expr::Alt(all) => all.iter().all(is_regular),
        Expr::Group(inner) | Expr::Repeat { child: inner, .. } => is_regular(inner),
        Expr::LookAround(..)
        | Expr::AtomicGroup(_)
        | Expr::Backref { .. }
        | Expr::BackrefWithRelativeRecursionLevel { .. }
        | Expr::KeepOut
        | Expr::ContinueFromPreviousMatchEnd
        | Expr::BackrefExistsCondition(_)
        | Expr::Conditional { .. }
        | Expr::SubroutineCall(_)
        | Expr::UnresolvedNamedSubroutineCall { .. } => false,
    }
}

/// `\s+`.
pub(super) fn is_blanks(expression: &Expr) -> bool {
    matches!(expression, Expr::Repeat { child, lo: 1, hi: usize::MAX, greedy: true } if is_class(child, "\\s"))
}

/// `\s+(?!\S)`.
pub(super) fn is_blanks_but_one(expression: &Expr) -> bool {
    let Expr::Concat(parts) = expression else { return false };
    let [blanks, Expr::LookAround(behind, LookAround::LookAheadNeg)] = parts.as_slice() else {
        return false;
    };
    is_blanks(blanks) && is_class(behind, "\\S")
}

fn is_class(expression: &Expr, class: &str) -> bool {
    matches!(expression, Expr::Delegate { inner, .. } if inner == class)
}
