//! Tensors whose numbers are not contiguous in the file: transposed and sliced views. A copy in
//! order is made when it is first needed, and kept.

use std::sync::OnceLock;

/// The places of a view's numbers; all of them within the file, as its reader has checked.
#[derive(Debug)]
pub(crate) struct Strided {
    file: usize,
    start: usize,
    size: usize,
    shape: Vec<usize>,
    /// In numbers.
    strides: Vec<usize>,
    copy: OnceLock<Box<[u8]>>,
}

impl Strided {
    /// A view of numbers of `size` bytes; the first is at byte `start` of file number `file`.
    pub fn new(file: usize, start: usize, size: usize, shape: Vec<usize>, strides: Vec<usize>) -> Self {
        Self { file, start, size, shape, strides, copy: OnceLock::new() }
    }

    /// Index of the file it is in.
    pub fn file(&self) -> usize {
        self.file
    }

    /// The numbers in order, out of the bytes of its file.
    pub fn bytes(&self, data: &[u8]) -> &[u8] {
        self.copy.get_or_init(|| self.gather(data))
    }

    fn gather(&self, data: &[u8]) -> Box<[u8]> {
        let count: usize = self.shape.iter().product();
        let mut out = Vec::with_capacity(count * self.size);
        let [(outer, columns), (outer_strides, stride)] =
            [&self.shape, &self.strides].map(|v| v.split_last().map_or((&[][..], 1), |(l, rest)| (rest, *l)));
        let mut index = vec![0; outer.len()];
        for _ in 0..count.checked_div(columns).unwrap_or(0) {
            let row: usize = index.iter().zip(outer_strides).map(|(i, stride)| i * stride).sum();
            let first = self.start + row * self.size;
            if stride == 1 {
                out.extend_from_slice(&data[first..][..columns * self.size]);
            } else {
                (0..columns).for_each(|i| {
                    out.extend_from_slice(&data[first + i * stride * self.size..][..self.size]);
                });
            }
            // The next row: the last index that is not at its end advances, those after it start again.
            for (i, n) in index.iter_mut().zip(outer).rev() {
                *i += 1;
                if *i < *n {
                    break;
                }
                *i = 0;
            }
        }
        out.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_come_in_order() {
        let data: Vec<u8> = (0..48).collect();
        let view = |start, size, shape: &[usize], strides: &[usize]| {
            Strided::new(0, start, size, shape.into(), strides.into()).bytes(&data).to_vec()
        };
        assert_eq!(view(0, 1, &[3, 2], &[1, 3]), [0, 3, 1, 4, 2, 5]);
        assert_eq!(view(2, 2, &[2, 2], &[1, 3]), [2, 3, 8, 9, 4, 5, 10, 11]);
        assert_eq!(view(0, 1, &[2, 3], &[10, 1]), [0, 1, 2, 10, 11, 12]);
        assert_eq!(view(0, 1, &[2, 2, 2], &[1, 2, 4]), [0, 4, 2, 6, 1, 5, 3, 7]);
        assert_eq!(view(5, 1, &[3], &[7]), [5, 12, 19]);
        assert_eq!(view(5, 1, &[2, 3], &[0, 1]), [5, 6, 7, 5, 6, 7]);
    }
}
