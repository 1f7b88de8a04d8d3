//! Fixed value tables.

/// Values of `iq4_nl` and `iq4_xs` codes.
pub(crate) use quern_tensor_io::decode::iq4::TABLE as IQ4;

/// Where codes of [`IQ4`] change: a value at or above `IQ4_EDGES[k]` is nearer to entry k+1 than to entry k.
/// Halves, so exact; close to an edge the distances to both neighbours are exact in f32 too, so comparing
/// with the edge decides exactly as comparing the distances does.
pub(crate) const IQ4_EDGES: [f32; 15] = {
    let mut edges = [0.0; 15];
    let mut k = 0;
    while k < 15 {
        edges[k] = (IQ4[k] as f32 + IQ4[k + 1] as f32) * 0.5;
        k += 1;
    }
    edges
};

/// Magnitudes of `mxfp4` codes 0..8, doubled so that they are whole; codes 8..16 are their negatives.
pub(crate) const E2M1_DOUBLED: [f32; 8] = [0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0];
