//! The cheapest choice for each of many items within a budget of bytes: a knapsack in which every item must be taken in
//! one of its versions.
//!
//! Item by item, the states that can be optimal are kept: those with fewer bytes than all that cost less. While there
//! are few ([`STATES`]) the result is the optimum. Beyond that, of states of nearly the same size only the cheapest
//! stays, with its exact size, and exchanges between items at the end use the bytes that this left over.

/// One version of an item.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Version {
    /// What it takes of the budget.
    pub bytes: u64,
    /// What is to be minimised in sum: finite.
    pub cost: f64,
}

/// The most states that are kept after an item.
const STATES: usize = 4096;

/// Exchanges at the end, at most.
const EXCHANGES: usize = 64;

/// A way to take the items so far.
#[derive(Clone, Copy)]
struct State {
    bytes: u64,
    cost: f64,
    /// The state of the items before the last.
    before: u32,
    /// The version of the last.
    version: u32,
}

/// Chooses a version of each item, so that all together take at most `budget` bytes and cost as little as can be. Of
/// equal costs the smaller is taken. `Err` has the bytes of the smallest versions, where they exceed the budget.
///
/// # Panics
/// If an item has no version.
pub fn allocate(items: &[Vec<Version>], budget: u64) -> Result<Vec<usize>, u64> {
    let smallest = |item: &Vec<Version>| item.iter().map(|v| v.bytes).min().expect("an item has a version");
    let least: u64 = items.iter().map(smallest).sum();
    if least > budget {
        return Err(least);
    }
    // Bytes that the items after each take at least.
    let mut rest = least;
    let mut stages: Vec<Vec<State>> = Vec::with_capacity(items.len());
    let mut states = vec![State { bytes: 0, cost: 0.0, before: 0, version: 0 }];
    for item in items {
        rest -= smallest(item);
        let mut next = Vec::with_capacity(states.len() * item.len());
        for (before, state) in states.iter().enumerate() {
            for (version, v) in item.iter().enumerate() {
                let bytes = state.bytes + v.bytes;
                if bytes + rest <= budget {
                    let (before, version) = (before as u32, version as u32);
                    next.push(State { bytes, cost: state.cost + v.cost, before, version });
                }
            }
        }
        states = thinned(next, budget);
        stages.push(states.clone());
    }
    // The costs fall as the sizes rise: the last is the cheapest.
    let mut at = states.len() - 1;
    let mut chosen = vec![0; items.len()];
    for (item, stage) in stages.iter().enumerate().rev() {
        chosen[item] = stage[at].version as usize;
        at = stage[at].before as usize;
    }
    exchange(items, budget, &mut chosen);
    Ok(chosen)
}

/// The states that can be optimal, by size; of many only the cheapest of about equal sizes.
fn thinned(mut states: Vec<State>, budget: u64) -> Vec<State> {
    states.sort_by(|a, b| a.bytes.cmp(&b.bytes).then(a.cost.total_cmp(&b.cost)));
    let mut least = f64::INFINITY;
    states.retain(|state| {
        let better = state.cost < least;
        least = least.min(state.cost);
        better
    });
    if states.len() <= STATES {
        return states;
    }
    let (first, last) = (states[0].bytes, states[states.len() - 1].bytes.min(budget));
    let bucket = |s: &State| u128::from(s.bytes - first) * STATES as u128 / u128::from(last - first + 1);
    let mut kept: Vec<State> = Vec::with_capacity(STATES + 1);
    for (index, state) in states.iter().enumerate() {
        match kept.last_mut() {
            // The smallest always stays: with it, what follows fits.
            Some(same) if index > 1 && bucket(same) == bucket(state) => *same = *state,
            Some(_) | None => kept.push(*state),
        }
    }
    kept
}

/// An item, and which of its versions.
type ItemVersion = (usize, usize);

/// Other versions for one or two items, and what that costs more.
#[derive(Clone, Copy)]
struct Exchange {
    cost: f64,
    changes: [Option<ItemVersion>; 2],
}

/// Improves a choice: another version of one item, or of two at once, as long as that costs less and fits.
fn exchange(items: &[Vec<Version>], budget: u64, chosen: &mut [usize]) {
    let of = |item: usize, chosen: &[usize]| items[item][chosen[item]];
    for _ in 0..EXCHANGES {
        let used: u64 = (0..items.len()).map(|i| of(i, chosen).bytes).sum();
        // All single changes: bytes and cost more than now.
        let mut changes = Vec::new();
        for (item, versions) in items.iter().enumerate() {
            let now = of(item, chosen);
            let others = versions.iter().enumerate().filter(|&(version, _)| version != chosen[item]);
            changes.extend(others.map(|(version, v)| {
                (item, version, v.bytes as i128 - i128::from(now.bytes), v.cost - now.cost)
            }));
        }
        let room = i128::from(budget - used);
        // The best partner for a change that saves `-bytes`: the cheapest of those that fit, by size.
        let mut by_size = changes.clone();
        by_size.sort_by(|a, b| a.2.cmp(&b.2).then(a.3.total_cmp(&b.3)));
        let mut best: Option<Exchange> = None;
        let mut offer = |cost: f64, changes: [Option<ItemVersion>; 2]| {
            if cost < 0.0 && best.is_none_or(|best| cost < best.cost) {
                best = Some(Exchange { cost, changes });
            }
        };
        for &(item, version, bytes, cost) in &changes {
            if bytes <= room {
                offer(cost, [Some((item, version)), None]);
            }
        }
        // Two at once: one gives bytes, the other takes them.
        for &(item, version, bytes, cost) in changes.iter().filter(|c| c.2 < 0) {
            let fitting = by_size.partition_point(|other| other.2 + bytes <= room);
            // Those that take the most of the room first: they gain the most.
            for other in by_size[..fitting].iter().rev().take(256).filter(|other| other.0 != item) {
                offer(cost + other.3, [Some((item, version)), Some((other.0, other.1))]);
            }
        }
        let Some(best) = best else { return };
        for (item, version) in best.changes.into_iter().flatten() {
            chosen[item] = version;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn total(items: &[Vec<Version>], chosen: &[usize]) -> (u64, f64) {
        let versions = items.iter().zip(chosen).map(|(item, &version)| item[version]);
        versions.fold((0, 0.0), |sum, v| (sum.0 + v.bytes, sum.1 + v.cost))
    }

    /// The least cost within the budget, by trying all combinations.
    fn tried(items: &[Vec<Version>], budget: u64) -> Option<f64> {
        let Some((first, others)) = items.split_first() else { return Some(0.0) };
        let fitting = first.iter().filter(|v| v.bytes <= budget);
        fitting.filter_map(|v| Some(v.cost + tried(others, budget - v.bytes)?)).min_by(f64::total_cmp)
    }

    fn items(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Vec<Version>>> {
        let version =
            (1u64..200, 0u32..1000).prop_map(|(bytes, cost)| Version { bytes, cost: f64::from(cost) });
        proptest::collection::vec(proptest::collection::vec(version, 1..5), count)
    }

    proptest! {
        #[test]
        fn the_least_cost_is_found(items in items(1..6), budget in 0u64..700) {
            match (allocate(&items, budget), tried(&items, budget)) {
                (Ok(chosen), Some(least)) => {
                    let (bytes, cost) = total(&items, &chosen);
                    prop_assert!(bytes <= budget, "{bytes} of {budget}");
                    prop_assert_eq!(cost, least);
                }
                (Err(bytes), None) => prop_assert!(bytes > budget),
                (found, least) => prop_assert!(false, "{found:?}, {least:?}"),
            }
        }

        #[test]
        fn the_budget_is_never_exceeded(items in items(20..60), share in 0.0..1.0) {
            let sum = |of: fn(u64, u64) -> u64| -> u64 {
                items.iter().map(|item| item.iter().map(|v| v.bytes).reduce(of).unwrap()).sum()
            };
            let (least, most) = (sum(u64::min), sum(u64::max));
            let budget = least + ((most - least) as f64 * share) as u64;
            let chosen = allocate(&items, budget).unwrap();
            prop_assert!(total(&items, &chosen).0 <= budget);
            prop_assert_eq!(allocate(&items, least - 1), Err(least));
        }
    }

    #[test]
    fn many_tensors_come_within_a_hair_of_the_bound() {
        // As a model has them: sizes in proportion to bits, costs that fall by a factor of four a bit.
        let bits = [2.6, 3.4, 4.25, 4.5, 5.5, 6.6, 8.5];
        let mut seed = 7u64;
        let mut random = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as f64 / f64::from(1u32 << 31)
        };
        let mut items = Vec::new();
        for _ in 0..300 {
            let (weights, sensitivity) = (1e5 * (1.0 + 20.0 * random()).round(), (6.0 * random()).exp());
            let version = |&bits: &f64| Version {
                bytes: (weights * bits / 8.0) as u64,
                cost: sensitivity * 4f64.powf(-bits),
            };
            items.push(bits.iter().map(version).collect::<Vec<_>>());
        }
        let budget = items.iter().map(|item| item[3].bytes).sum();
        let (bytes, cost) = total(&items, &allocate(&items, budget).unwrap());
        assert!(bytes <= budget && bytes as f64 > 0.9995 * budget as f64, "{bytes} of {budget}");
        // No choice costs less than this, for any price of a byte.
        let bound = |price: f64| {
            let least = |item: &Vec<Version>| {
                item.iter().map(|v| v.cost + price * v.bytes as f64).min_by(f64::total_cmp).unwrap()
            };
            items.iter().map(least).sum::<f64>() - price * budget as f64
        };
        let bound = (0..400).map(|i| bound(1e-9 * 1.06f64.powi(i))).max_by(f64::total_cmp).unwrap();
        assert!(cost >= bound && cost < 1.002 * bound, "{cost} above {bound}");
    }
}
