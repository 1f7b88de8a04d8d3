//! Which of the kernels compiled for several generations of cards a card runs.

use super::Version;

/// Generations whose kernels differ, by the oldest capability that takes the code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Generation {
    /// `compute_75`.
    Turing,
    /// `compute_80`, for all later ones but Hopper.
    Ampere,
    /// `compute_90a`: compute capability 9.0 only.
    Hopper,
}

impl Generation {
    /// That of a card; `None` below [`super::OLDEST_CAPABILITY`].
    pub fn of(capability: Version) -> Option<Self> {
        match (capability.major, capability.minor) {
            (9, 0) => Some(Self::Hopper),
            (8.., _) => Some(Self::Ampere),
            (7, 5..) => Some(Self::Turing),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generation_of_a_card() {
        let of = |major, minor| Generation::of(Version { major, minor });
        assert_eq!(of(9, 0), Some(Generation::Hopper));
        assert_eq!(of(10, 0), Some(Generation::Ampere));
        assert_eq!(of(8, 9), Some(Generation::Ampere));
        assert_eq!(of(7, 5), Some(Generation::Turing));
        assert_eq!(of(7, 0), None);
    }
}
