//! Which candidate to try first: the one closest to the original among those that are fast enough, on the fastest
//! memory that holds one.

use super::{Candidate, Scheme};

/// Faster than most people read.
const SPEED: f64 = 10.0;
/// More of a divergence than this is noticed.
pub const ACCEPTABLE: f64 = 0.1;
/// Less of a divergence than this is not.
const SAME: f64 = 0.001;

/// What the user wishes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wishes {
    /// Tokens a second at least.
    pub speed: f64,
}

impl Default for Wishes {
    fn default() -> Self {
        Self { speed: SPEED }
    }
}

/// The candidate to try first: of those that fit without reading from the disk and reach the speed, the one closest to
/// the original; of several that cannot be told from it, the fastest. If none reaches the speed, the fastest of those
/// that are not poor. `None` if nothing fits.
pub fn best(candidates: &[Candidate], wishes: Wishes) -> Option<usize> {
    let speed =
        |c: &Candidate| c.placed.as_ref().and_then(|placed| placed.tokens_per_second()).unwrap_or(0.0);
    let loss = |c: &Candidate| match c.scheme {
        Scheme::Stored => 0.0,
        Scheme::Gguf { .. } | Scheme::Gptq { .. } | Scheme::Bitsandbytes(_) => {
            c.quality.map_or(f64::INFINITY, |quality| quality.kl_mean)
        }
    };
    let in_memory: Vec<usize> = (0..candidates.len())
        .filter(|&i| candidates[i].placed.as_ref().is_some_and(|placed| placed.in_memory()))
        .collect();
    let known = in_memory.iter().any(|&i| speed(&candidates[i]) > 0.0);
    let fast: Vec<usize> =
        in_memory.iter().copied().filter(|&i| !known || speed(&candidates[i]) >= wishes.speed).collect();
    let by_speed = |a: &usize, b: &usize| speed(&candidates[*a]).total_cmp(&speed(&candidates[*b]));
    let by_loss = |a: &usize, b: &usize| {
        let of = |i: usize| loss(&candidates[i]).max(SAME);
        // The closest is the largest; among equals the faster, then the smaller.
        let size = || candidates[*b].file_size.cmp(&candidates[*a].file_size);
        of(*b).total_cmp(&of(*a)).then_with(|| by_speed(a, b)).then_with(size)
    };
    let closest = fast.iter().copied().max_by(by_loss).filter(|&i| loss(&candidates[i]) <= ACCEPTABLE);
    closest.or_else(|| {
        let acceptable = in_memory.iter().copied().filter(|&i| loss(&candidates[i]) <= ACCEPTABLE);
        acceptable.max_by(by_speed).or_else(|| fast.iter().copied().max_by(by_loss))
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Placed, quality};
    use super::*;
    use quern_model::FileType;
    use quern_run::estimate::{MemoryEstimate, TokenTime};

    fn candidate(file_type: FileType, size: u64, speed: Option<f64>, disk_layers: usize) -> Candidate {
        let scheme = Scheme::Gguf { file_type, imatrix: false };
        let time = speed.map(|speed| TokenTime { cpu: 1.0 / speed, ..TokenTime::default() });
        let memory = MemoryEstimate::default();
        let placed = Placed { gpu_layers: 0, disk_layers, layers: 9, memory, time };
        Candidate {
            scheme,
            bits_per_weight: 1.0,
            file_size: size,
            context: 1,
            placed: Some(placed),
            needed: 0,
            quality: quality(scheme),
        }
    }

    fn chosen(candidates: &[Candidate], speed: f64) -> Option<String> {
        best(candidates, Wishes { speed }).map(|i| candidates[i].scheme.name())
    }

    #[test]
    fn the_closest_that_is_fast_enough() {
        use FileType as F;
        let all = [
            candidate(F::F16, 160, Some(3.0), 0),
            candidate(F::Q8_0, 85, Some(6.0), 0),
            candidate(F::Q6K, 66, Some(8.0), 0),
            candidate(F::Q5KM, 57, Some(10.5), 0),
            candidate(F::Q4KM, 48, Some(12.0), 0),
        ];
        assert_eq!(chosen(&all, 10.0).as_deref(), Some("q5_k_m"));
        assert_eq!(chosen(&all, 7.0).as_deref(), Some("q6_k"));
        // F16 and Q8_0 cannot be told apart: the faster.
        assert_eq!(chosen(&all, 1.0).as_deref(), Some("q8_0"));
        // Nothing is that fast: the fastest that is good.
        assert_eq!(chosen(&all, 100.0).as_deref(), Some("q4_k_m"));
        assert_eq!(chosen(&[], 1.0), None);
    }

    #[test]
    fn what_is_read_from_the_disk_is_not_proposed() {
        let all =
            [candidate(FileType::Q8_0, 85, Some(20.0), 3), candidate(FileType::Q4KM, 48, Some(12.0), 0)];
        assert_eq!(chosen(&all, 10.0).as_deref(), Some("q4_k_m"));
    }

    #[test]
    fn without_speeds_the_closest_that_fits() {
        let all = [candidate(FileType::Q6K, 66, None, 0), candidate(FileType::Q4KM, 48, None, 0)];
        assert_eq!(chosen(&all, 10.0).as_deref(), Some("q6_k"));
    }
}
