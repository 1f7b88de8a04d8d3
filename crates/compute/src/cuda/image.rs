//! What the kernels are in this binary: images of modules, machine code for some cards and PTX, which the driver
//! compiles, for all others.

use std::io::Read as _;

use super::error::Version;

/// What an image was compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// Compute capability without the point: 75, 80, 90.
    pub number: i32,
    /// Whether only cards of exactly this capability take it (`compute_90a`, `sm_90a`).
    pub exact: bool,
    /// Whether it is machine code, which cards of the same major version take; else PTX, which all later ones take.
    pub machine: bool,
}

impl Target {
    fn suits(self, capability: Version) -> bool {
        let number = 10 * capability.major + capability.minor;
        let same_major = self.number / 10 == capability.major;
        if self.exact {
            self.number == number
        } else {
            self.number <= number && (same_major || !self.machine)
        }
    }
}

/// The kernels of one module for one target.
pub(super) struct Image {
    pub module: &'static str,
    pub target: Target,
    pub kernels: &'static [Entry],
    /// LZMA stream of PTX or machine code.
    pub packed: &'static [u8],
}

/// A kernel of an image.
#[derive(Debug)]
pub(super) struct Entry {
    pub name: &'static str,
    /// Bytes that its parameters take.
    pub parameters: usize,
    /// Whether it waits for the kernel before it (`griddepcontrol.wait`), and so may be started before that one has ended.
    pub waits: bool,
}

impl Image {
    /// What the driver is given: PTX ends with a zero byte, as it must.
    pub(super) fn unpack(&self) -> std::io::Result<Vec<u8>> {
        let mut code = Vec::new();
        // In KiB: the window of 2 MiB that tools/build_kernels.py packs with, and what else is needed.
        lzma_rust2::LzmaReader::new_mem_limit(self.packed, 4096, None)?.read_to_end(&mut code)?;
        if !self.target.machine {
            code.push(0);
        }
        Ok(code)
    }
}

/// The image of a module that suits a card best: the newest that it takes, machine code before PTX.
pub(super) fn best(images: &'static [Image], module: &str, capability: Version) -> Option<&'static Image> {
    images
        .iter()
        .filter(|image| image.module == module && image.target.suits(capability))
        .max_by_key(|image| (image.target.number, image.target.exact, image.target.machine))
}

#[cfg(test)]
mod tests {
    use super::super::images::IMAGES;
    use super::*;

    #[test]
    fn all_images_unpack_to_code_of_their_target() {
        assert!(!IMAGES.is_empty());
        for image in IMAGES {
            let Image { module, target, kernels, .. } = image;
            let code = image.unpack().expect(module);
            assert!(!kernels.is_empty(), "{module} has no kernel");
            if target.machine {
                assert!(code.starts_with(b"\x7fELF"), "{module}");
                continue;
            }
            let text = String::from_utf8(code).expect(module);
            let named = format!(".target sm_{}{}\n", target.number, if target.exact { "a" } else { "" });
            assert!(text.starts_with(".version 8.4\n"), "{module}: PTX newer than drivers of CUDA 12.4 take");
            assert!(text.contains(&named), "{module}: {named}");
            assert_eq!(text.find('\0'), Some(text.len() - 1), "{module}");
            for Entry { name, .. } in *kernels {
                assert!(text.contains(&format!(".entry {name}(\n")), "{module}: {name}");
            }
            assert_eq!(text.matches(".entry ").count(), kernels.len(), "{module}");
        }
        assert!(
            IMAGES.is_sorted_by_key(|image| (image.module, image.target.number)),
            "in order of their names"
        );
    }

    #[test]
    fn machine_code_is_never_all_that_there_is() {
        for image in IMAGES.iter().filter(|image| image.target.machine && !image.target.exact) {
            let ptx = |other: &&Image| other.module == image.module && !other.target.machine;
            assert!(
                IMAGES.iter().any(|other| ptx(&other)),
                "{} runs on one generation of cards",
                image.module
            );
        }
    }

    #[test]
    fn the_newest_target_that_a_card_takes_is_chosen() {
        const fn of(number: i32, exact: bool, machine: bool) -> Image {
            Image { module: "m", target: Target { number, exact, machine }, kernels: &[], packed: &[] }
        }
        static ALL: [Image; 6] = [
            of(75, false, false),
            of(80, false, false),
            of(80, false, true),
            of(90, false, false),
            of(90, false, true),
            of(90, true, true),
        ];
        let chosen = |major, minor| {
            let target = best(&ALL, "m", Version { major, minor })?.target;
            Some((target.number, target.exact, target.machine))
        };
        assert_eq!(chosen(7, 0), None);
        assert_eq!(chosen(7, 5), Some((75, false, false)));
        assert_eq!(chosen(8, 9), Some((80, false, true)));
        assert_eq!(chosen(9, 0), Some((90, true, true)));
        assert_eq!(chosen(9, 3), Some((90, false, true)));
        assert_eq!(chosen(12, 0), Some((90, false, false)));
        assert!(best(&ALL, "n", Version { major: 9, minor: 0 }).is_none());
    }
}
