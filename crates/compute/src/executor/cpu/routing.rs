//! The choice of experts.

use crate::executor::Choice;
use crate::executor::routing::{GroupRank, Groups, Routing, Scores};
use crate::ops;
use crate::simd::Level;

/// The smallest sum that shares are divided by.
const LEAST_SUM: f32 = 1e-20;

/// For every expert the tokens that chose it, in order, from the router's outputs `[tokens][experts]`, which
/// are overwritten. `bias`, one number for each expert, is added to scores for the choice alone.
pub(super) fn choose(
    level: Level,
    routing: Routing,
    bias: Option<&[f32]>,
    logits: &mut [f32],
) -> Vec<Vec<Choice>> {
    let mut chosen: Vec<Vec<Choice>> = vec![Vec::new(); routing.count];
    let mut order: Vec<usize> = Vec::with_capacity(routing.count);
    let mut ranks: Vec<f32> = Vec::with_capacity(routing.count);
    for (token, row) in (0..).zip(logits.chunks_exact_mut(routing.count.max(1))) {
        match routing.scores {
            Scores::Softmax => ops::softmax(level, row),
            Scores::Sigmoid => row.iter_mut().for_each(|v| *v = 1.0 / (1.0 + (-*v).exp())),
            Scores::SparseMixer { jitter } => {
                sparse_mixer(row, jitter, routing, |expert, share| {
                    chosen[expert].push(Choice { token, share });
                });
                continue;
            }
        }
        ranks.clear();
        ranks.extend_from_slice(row);
        if let Some(bias) = bias {
            ranks.iter_mut().zip(bias).for_each(|(rank, bias)| *rank += bias);
        }
        order.clear();
        match routing.groups {
            None => order.extend(0..routing.count),
            Some(groups) => kept(groups, &ranks, &mut order),
        }
        sort(&ranks, &mut order);
        order.truncate(routing.used);
        let sum: f32 = order.iter().map(|&expert| row[expert]).sum();
        for &expert in &order {
            let share = if routing.normalized { row[expert] / sum.max(LEAST_SUM) } else { row[expert] };
            chosen[expert].push(Choice { token, share: share * routing.scale });
        }
    }
    chosen
}

/// The largest first, of equal ones the first. A router that gives NaN chooses anything, the logits will show it.
fn sort(ranks: &[f32], order: &mut [usize]) {
    order.sort_by(|&a, &b| ranks[b].total_cmp(&ranks[a]).then(a.cmp(&b)));
}

/// The experts of the groups that are kept.
fn kept(groups: Groups, ranks: &[f32], experts: &mut Vec<usize>) {
    let size = ranks.len() / groups.count.max(1);
    let rank = |group: &[f32]| {
        let (mut first, mut second) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
        for &value in group {
            if value > first {
                (first, second) = (value, first);
            } else if value > second {
                second = value;
            }
        }
        match groups.rank {
            GroupRank::Largest => first,
            GroupRank::TwoLargest => first + second,
        }
    };
    let all: Vec<f32> = ranks.chunks_exact(size.max(1)).map(rank).collect();
    let mut order: Vec<usize> = (0..all.len()).collect();
    sort(&all, &mut order);
    order.truncate(groups.used);
    order.sort_unstable();
    experts.extend(order.into_iter().flat_map(|group| group * size..(group + 1) * size));
}

/// One expert after the other, each with its part of a softmax over those that are near it.
fn sparse_mixer(row: &[f32], jitter: f32, routing: Routing, mut take: impl FnMut(usize, f32)) {
    let mut taken = vec![false; row.len()];
    for _ in 0..routing.used {
        let left = || (0..row.len()).filter(|&expert| !taken[expert]);
        let larger = |best: usize, other: usize| if row[other] > row[best] { other } else { best };
        let Some(best) = left().reduce(larger) else { return };
        let top = row[best];
        let near = |&expert: &usize| {
            let apart = (top - row[expert]) / row[expert].abs().max(top);
            // Two outputs of 0 are near each other.
            apart.is_nan() || apart <= 2.0 * jitter
        };
        let sum: f32 = left().filter(near).map(|expert| (row[expert] - top).exp()).sum();
        take(best, routing.scale / sum);
        taken[best] = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(choice: &Choice, token: u32, share: f32) -> bool {
        choice.token == token && (choice.share - share).abs() < 1e-6
    }

    fn lengths(chosen: &[Vec<Choice>]) -> Vec<usize> {
        chosen.iter().map(Vec::len).collect()
    }

    #[test]
    fn the_largest_are_chosen_and_weighted() {
        let mut logits = [0.0, 2f32.ln(), 4f32.ln(), 0.0, 1.0, 1.0, 1.0, 1.0];
        let routing = Routing::softmax(4, 2, true);
        let chosen = choose(Level::best(), routing, None, &mut logits.clone());
        assert!(near(&chosen[2][0], 0, 4.0 / 6.0) && near(&chosen[1][0], 0, 2.0 / 6.0));
        // Equal ones: the first two.
        assert!(near(&chosen[0][0], 1, 0.5) && near(&chosen[1][1], 1, 0.5));
        assert_eq!(lengths(&chosen), [1, 2, 1, 0]);
        let chosen = choose(Level::best(), Routing { normalized: false, ..routing }, None, &mut logits);
        assert!(near(&chosen[2][0], 0, 4.0 / 8.0) && near(&chosen[1][0], 0, 2.0 / 8.0));
    }

    #[test]
    fn a_bias_chooses_and_does_not_weight() {
        let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
        let routing = Routing { scores: Scores::Sigmoid, scale: 2.5, ..Routing::softmax(4, 2, true) };
        let logits = [0.5, -1.0, 0.25, 2.0];
        let bias = [0.0, 1.0, 0.0, -1.0];
        let chosen = choose(Level::best(), routing, Some(&bias), &mut logits.clone());
        let sum = sigmoid(-1.0) + sigmoid(0.5);
        assert!(near(&chosen[1][0], 0, 2.5 * sigmoid(-1.0) / sum));
        assert!(near(&chosen[0][0], 0, 2.5 * sigmoid(0.5) / sum));
        assert_eq!(lengths(&chosen), [1, 1, 0, 0]);
        let gate = choose(Level::best(), Routing::gate(), None, &mut [0.0, 3.0]);
        assert!(near(&gate[0][0], 0, 0.5) && near(&gate[0][1], 1, sigmoid(3.0)));
    }

    #[test]
    fn experts_are_chosen_from_the_best_groups() {
        let logits = [3.0, -9.0, 2.0, 1.9, 0.0, 2.5];
        let of = |rank| {
            let groups = Some(Groups { count: 3, used: 1, rank });
            let routing = Routing { scores: Scores::Sigmoid, groups, ..Routing::softmax(6, 2, false) };
            lengths(&choose(Level::best(), routing, None, &mut logits.clone()))
        };
        assert_eq!(of(GroupRank::Largest), [1, 1, 0, 0, 0, 0]);
        assert_eq!(of(GroupRank::TwoLargest), [0, 0, 1, 1, 0, 0]);
    }

    #[test]
    fn a_sparse_mixer_weights_by_those_near_the_largest() {
        let routing =
            Routing { scores: Scores::SparseMixer { jitter: 0.01 }, ..Routing::softmax(4, 2, false) };
        let logits = [1.0, 0.5, 1.01, 0.995];
        let chosen = choose(Level::best(), routing, None, &mut logits.clone());
        let e = |x: f32| x.exp();
        // 1.0 and 0.995 are within 2 % of 1.01, then 0.995 of 1.0.
        assert!(near(&chosen[2][0], 0, 1.0 / (1.0 + e(-0.01) + e(-0.015))));
        assert!(near(&chosen[0][0], 0, 1.0 / (1.0 + e(-0.005))));
        assert_eq!(lengths(&chosen), [1, 0, 1, 0]);
        let alone = choose(Level::best(), routing, None, &mut [0.0, 0.0, -1.0, 5.0]);
        assert!(near(&alone[3][0], 0, 1.0) && near(&alone[0][0], 0, 0.5));
    }
}
