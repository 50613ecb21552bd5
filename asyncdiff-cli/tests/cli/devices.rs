//! Every kind of device that this build finds on this machine makes the same picture.

use asyncdiff_models::device::available;

use super::sandbox::{Sandbox, pixels, quick};

/// Bytes that differ, and by how many levels at most.
fn differences(a: &[u8], b: &[u8]) -> (usize, u8) {
    assert_eq!(a.len(), b.len());
    let differences = a.iter().zip(b).map(|(a, b)| a.abs_diff(*b));
    let different = differences.filter(|difference| *difference > 0);
    different.fold((0, 0), |(count, worst), difference| {
        (count + 1, worst.max(difference))
    })
}

#[test]
fn every_kind_of_device_makes_the_picture_that_the_cpu_makes() {
    let sandbox = Sandbox::new();
    let picture = |devices: &str, more: &[&str]| {
        let args = [
            &[
                "--steps",
                "20",
                "--devices",
                devices,
                "--force",
                "-o",
                "a.png",
            ],
            more,
        ];
        sandbox.ok(&quick(&args.concat()));
        pixels(&sandbox.path("a.png"))
    };
    let expected = picture("cpu", &[]);
    for name in available() {
        // Two ranks on one device, or on two workers that share the CPU.
        let two = match name.rsplit_once(':') {
            Some((_, index)) if index.parse::<usize>().is_ok() => format!("{name},{index}"),
            _ => format!("{name}:2"),
        };
        for (devices, more) in [(&name, &[][..]), (&two, &["--guidance-split"])] {
            let (count, worst) = differences(&picture(devices, more), &expected);
            println!("{devices} {more:?}: {count} bytes differ, by {worst} at most");
            // What differs by rounding in f32 can fall on two sides of an edge between two levels, and no further.
            assert!(worst <= 1, "{devices} {more:?}: off by {worst} levels");
        }
    }
}

#[test]
#[cfg(feature = "cuda")]
fn a_missing_driver_is_named_in_one_sentence() {
    if available().iter().any(|name| name.starts_with("cuda")) {
        println!("passing over it: there is a driver");
        return;
    }
    let error = Sandbox::new().fails(&quick(&["--devices", "cuda:0", "-o", "a.png"]));
    assert!(error.contains("NVIDIA driver"), "{error}");
}
