//! Frequencies and factors, against the papers' formulas and against transformers.

use std::path::Path;

use serde_json::Value;

use super::*;

fn rope(scaling: RopeScaling, factors: Option<Vec<f32>>) -> Rope {
    Rope { theta: 10_000.0, dimensions: 64, scaling, factors, local_theta: None }
}

fn row(rope: &Rope, position: usize) -> (Vec<f32>, Vec<f32>) {
    let (mut cos, mut sin) = (Vec::new(), Vec::new());
    Angles::new(rope, None, 4096).fill(&quern_compute::Pool::new(1), position, 1, &mut cos, &mut sin);
    (cos, sin)
}

#[test]
fn plain_angles_are_the_papers() {
    let (cos, sin) = row(&rope(RopeScaling::None, None), 7);
    assert_eq!(cos.len(), 32);
    for i in [0usize, 1, 15, 31] {
        let angle = 7.0 * 10_000f64.powf(-(i as f64) / 32.0);
        assert!((f64::from(cos[i]) - angle.cos()).abs() < 1e-7);
        assert!((f64::from(sin[i]) - angle.sin()).abs() < 1e-7);
    }
}

#[test]
fn linear_scaling_slows_positions_and_factors_divide() {
    let plain = row(&rope(RopeScaling::None, None), 5);
    assert_eq!(row(&rope(RopeScaling::Linear { factor: 4.0 }, None), 20), plain);
    assert_eq!(row(&rope(RopeScaling::None, Some(vec![4.0; 32])), 20), plain);
}

#[test]
fn yarn_keeps_fast_pairs_stretches_slow_ones_and_lengthens() {
    let yarn = RopeScaling::Yarn {
        factor: 8.0,
        original_context: 2048,
        attention_factor: None,
        beta_fast: 32.0,
        beta_slow: 1.0,
        truncate: true,
    };
    let angles = Angles::new(&rope(yarn, None), None, 16384);
    let plain = Angles::new(&rope(RopeScaling::None, None), None, 4096);
    assert_eq!(angles.frequencies[0], plain.frequencies[0]);
    assert!((angles.frequencies[31] * 8.0 / plain.frequencies[31] - 1.0).abs() < 1e-12);
    // d ln(L / (turns 2 pi)) / (2 ln theta): pairs 8.06 and 20.10, so the ramp runs from 8 to 21.
    let stretched = (14.0 - 8.0) / 13.0;
    let expected = plain.frequencies[14] * (1.0 - stretched + stretched / 8.0);
    assert!((angles.frequencies[14] / expected - 1.0).abs() < 1e-12);
    assert!((angles.scale - (0.1 * 8f64.ln() + 1.0)).abs() < 1e-12);
}

/// `fixtures/golden/config.json`, made by `tools/make_config_golden.py`: frequencies and factors of transformers.
#[test]
fn frequencies_are_those_of_transformers() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures");
    let golden = std::fs::read(fixtures.join("golden/config.json")).unwrap();
    let golden: Value = serde_json::from_slice(&golden).unwrap();
    let rows = golden["rope"].as_array().unwrap();
    assert!(rows.len() > 60);
    let dir = tempfile::TempDir::new().unwrap();
    let file = dir.path().join("config.json");
    for row in rows {
        let (given, means) = (&row["config"], &row["means"]);
        std::fs::write(&file, given.to_string()).unwrap();
        let config = Config::from_config_json(&file);
        if means.get("error").is_some() {
            // Phi-3's first files say "su", which only its own code reads today.
            assert!(config.is_err() || given["rope_scaling"]["rope_type"] == "su", "{given}: {config:?}");
            continue;
        }
        let config = config.unwrap_or_else(|e| panic!("{given}: {e}"));
        let rotation = Rotation::new(&config);
        let compare = |angles: &Angles, expected: &Value| {
            let wanted: Vec<f64> =
                expected["frequencies"].as_array().unwrap().iter().map(|f| f.as_f64().unwrap()).collect();
            assert_eq!(angles.frequencies.len(), wanted.len(), "{given}");
            for (found, wanted) in angles.frequencies.iter().zip(&wanted) {
                assert!((found - wanted).abs() <= 2e-6 * wanted, "{given}: {found} {wanted}");
            }
            let factor = expected["factor"].as_f64().unwrap();
            assert!((angles.scale - factor).abs() <= 1e-6 * factor, "{given}: {} {factor}", angles.scale);
        };
        let local = rotation.local.as_ref();
        let kinds = [("short", Some(&rotation.global)), ("full_attention", Some(&rotation.global))];
        for (kind, angles) in kinds.into_iter().chain([("sliding_attention", local)]) {
            if let Some(expected) = means.get(kind) {
                compare(angles.unwrap(), expected);
            }
        }
        if let (Some((_, long)), Some(expected)) = (&rotation.long, means.get("long")) {
            compare(long, expected);
        }
    }
}
