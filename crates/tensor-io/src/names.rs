//! Tensors found by name: a table of their numbers, which does not repeat the names.

use std::hash::{BuildHasher, RandomState};

/// Number and part of the hash of each tensor, at a place that follows from the hash; the next free one where that is
/// taken.
#[derive(Clone, Debug, Default)]
pub(crate) struct NameTable {
    slots: Vec<Slot>,
    used: usize,
    hasher: RandomState,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    hash: u32,
    /// One more than the tensor's number; 0 where the slot is free.
    tensor: u32,
}

const FREE: Slot = Slot { hash: 0, tensor: 0 };

impl NameTable {
    /// The names of so many tensors, given by their numbers. An error gives two of them with the same name, the earlier first.
    pub fn of<'n>(count: usize, name_of: impl Fn(usize) -> &'n str) -> Result<Self, (usize, usize)> {
        let mut table = Self::with_capacity(count);
        for tensor in 0..count {
            if let Some(earlier) = table.insert(tensor, name_of(tensor), &name_of) {
                return Err((earlier, tensor));
            }
        }
        Ok(table)
    }

    /// A table with room for so many names.
    pub fn with_capacity(count: usize) -> Self {
        let slots = if count == 0 { Vec::new() } else { vec![FREE; room(count)] };
        Self { slots, used: 0, hasher: RandomState::new() }
    }

    /// Adds the name of a tensor; if another tensor in the table has it, gives that one instead. `name_of` gives the
    /// names of those in the table.
    pub fn insert<'n>(
        &mut self,
        tensor: usize,
        name: &str,
        name_of: impl Fn(usize) -> &'n str,
    ) -> Option<usize> {
        if room(self.used + 1) > self.slots.len() {
            self.grow();
        }
        let hash = self.hash(name);
        match self.find(hash, name, name_of) {
            Ok(earlier) => Some(earlier),
            Err(free) => {
                // Readers limit tensors to far less than 2^32.
                self.slots[free] = Slot { hash, tensor: tensor as u32 + 1 };
                self.used += 1;
                None
            }
        }
    }

    /// The number of the tensor of this name.
    pub fn get<'n>(&self, name: &str, name_of: impl Fn(usize) -> &'n str) -> Option<usize> {
        if self.slots.is_empty() {
            return None;
        }
        self.find(self.hash(name), name, name_of).ok()
    }

    fn hash(&self, name: &str) -> u32 {
        let hash = self.hasher.hash_one(name);
        (hash ^ (hash >> 32)) as u32
    }

    /// The tensor of this name, or the free slot where it would be. At least a quarter of the slots is free.
    fn find<'n>(&self, hash: u32, name: &str, name_of: impl Fn(usize) -> &'n str) -> Result<usize, usize> {
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        loop {
            let slot = self.slots[at];
            if slot.tensor == 0 {
                return Err(at);
            }
            let tensor = slot.tensor as usize - 1;
            if slot.hash == hash && name_of(tensor) == name {
                return Ok(tensor);
            }
            at = (at + 1) & mask;
        }
    }

    fn grow(&mut self) {
        let slots = vec![FREE; room(self.used + 1).max(2 * self.slots.len())];
        let mask = slots.len() - 1;
        let old = std::mem::replace(&mut self.slots, slots);
        for slot in old.into_iter().filter(|slot| slot.tensor != 0) {
            let mut at = slot.hash as usize & mask;
            while self.slots[at].tensor != 0 {
                at = (at + 1) & mask;
            }
            self.slots[at] = slot;
        }
    }
}

/// Slots for so many names: a power of two, of which three quarters are used at most.
fn room(count: usize) -> usize {
    (count + count / 3 + 1).next_power_of_two().max(8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_and_no_other() {
        let names: Vec<String> = (0..5000).map(|i| format!("blk.{}.weight.{i}", i % 7)).collect();
        let name_of = |i: usize| names[i].as_str();
        let table = NameTable::of(names.len(), name_of).unwrap();
        let mut grown = NameTable::default();
        for (i, name) in names.iter().enumerate() {
            assert_eq!(grown.insert(i, name, name_of), None);
        }
        for table in [table, grown] {
            assert!(names.iter().enumerate().all(|(i, name)| table.get(name, name_of) == Some(i)));
            assert_eq!(table.get("blk.0.weight.5000", name_of), None);
        }
        assert_eq!(NameTable::default().get("x", |_| "x"), None);
    }

    #[test]
    fn a_name_that_comes_twice_is_given_with_its_first_place() {
        let names = ["a", "b", "c", "b"];
        assert_eq!(NameTable::of(names.len(), |i| names[i]).unwrap_err(), (1, 3));
    }
}
