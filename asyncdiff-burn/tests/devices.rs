//! Device specifications: what each gives on this machine, and the sentence that a bad one is answered with.
//!
//! These tests pass on a machine with no GPU. Those of a GPU backend compute on the first device there is, and where there
//! is none they ask for the sentence that says so.

use asyncdiff_burn::device::{DeviceError, Worker, available, workers};
use burn::tensor::Tensor;

fn sentence(spec: &str) -> String {
    workers(spec, None)
        .expect_err("the specification is bad")
        .to_string()
}

fn names(workers: &[Worker]) -> Vec<&str> {
    workers.iter().map(Worker::name).collect()
}

/// `[[1, 2], [3, 4]]` squared, computed on `worker`.
fn square(worker: &Worker) -> Vec<f32> {
    worker.install(|| {
        let x = Tensor::<2>::from_floats([[1.0, 2.0], [3.0, 4.0]], worker.device());
        x.clone()
            .matmul(x)
            .into_data()
            .try_to_vec()
            .expect("the result is f32")
    })
}

const SQUARED: [f32; 4] = [7.0, 10.0, 15.0, 22.0];

#[test]
fn an_empty_specification_or_group_asks_for_a_name() {
    for spec in ["", "  ", "+", "cpu+", "+cpu", "cpu++cpu"] {
        let error = workers(spec, None).expect_err(spec);
        assert!(
            matches!(error, DeviceError::Missing { .. }),
            "{spec}: {error}"
        );
        assert!(error.to_string().contains("such as `cpu`"), "{error}");
    }
}

#[test]
fn an_unknown_name_is_answered_with_the_known_ones() {
    for spec in [
        "gpu",
        "cpu2",
        "CPU",
        ":0",
        "tch",
        "tch:",
        "tch:mps",
        "0",
        "cpu:1+cudas:0",
        "🦀",
    ] {
        let error = workers(spec, None).expect_err(spec);
        assert!(
            matches!(error, DeviceError::Unknown { .. }),
            "{spec}: {error}"
        );
        assert!(error.to_string().contains("tch:cuda:0"), "{error}");
    }
}

#[test]
fn a_malformed_group_is_answered_with_an_example() {
    let huge = "cpu:99999999999999999999999999";
    for spec in [
        "cpu:", "cpu:x", "cpu:-1", "cpu:1.5", "cpu:1,2", "cpu::1", huge,
    ] {
        assert!(sentence(spec).ends_with("comes the number of workers, as in `cpu:2`"));
    }
    for spec in [
        "cuda:",
        "cuda:,",
        "cuda:0,",
        "cuda:0,,1",
        "cuda:0;1",
        "wgpu:a",
        "tch:cuda:-1",
    ] {
        let sentence = sentence(spec);
        assert!(
            sentence.starts_with(&format!("`{spec}` is malformed")),
            "{sentence}"
        );
    }
}

#[test]
fn too_few_or_too_many_are_refused() {
    assert_eq!(
        sentence("cpu:0"),
        "`cpu:0` asks for no workers: ask for at least 1, as in `cpu:1`"
    );
    assert!(sentence("cpu:1+tch:cpu:0").contains("`tch:cpu:1`"));
    for spec in ["cpu:257", "cpu:18446744073709551615", "cpu:200+cpu:100"] {
        let error = workers(spec, None).expect_err(spec);
        assert!(
            matches!(error, DeviceError::TooManyWorkers { .. }),
            "{spec}: {error}"
        );
    }
    let error = workers("cpu", Some(0)).expect_err("no threads");
    assert!(matches!(error, DeviceError::ZeroThreads), "{error}");
}

/// A reader of a log wants one sentence: no capital, no full stop, no line break.
#[test]
fn every_error_is_one_lower_case_sentence() {
    for spec in [
        "",
        "gpu",
        "cpu:x",
        "cpu:0",
        "cpu:300",
        "cuda:9999",
        "wgpu:9999",
        "tch:cuda:9999",
    ] {
        let sentence = sentence(spec);
        let first = sentence.trim_start_matches('`').chars().next();
        assert!(first.is_some_and(|c| !c.is_uppercase()), "{sentence}");
        assert!(
            !sentence.ends_with('.') && !sentence.contains('\n'),
            "{sentence}"
        );
    }
}

#[test]
#[cfg(not(all(feature = "flex", feature = "cuda", feature = "wgpu", feature = "tch")))]
fn a_backend_left_out_of_the_build_names_its_feature() {
    let backends = [
        ("cpu", "flex", cfg!(feature = "flex")),
        ("cuda:0", "cuda", cfg!(feature = "cuda")),
        ("wgpu", "wgpu", cfg!(feature = "wgpu")),
        ("tch:cpu", "tch", cfg!(feature = "tch")),
        ("tch:cuda:1", "tch", cfg!(feature = "tch")),
    ];
    for (spec, feature, compiled) in backends {
        if !compiled {
            let sentence = sentence(spec);
            assert!(
                sentence.ends_with(&format!("`--features {feature}`")),
                "{sentence}"
            );
        }
    }
}

#[cfg(feature = "flex")]
mod flex {
    use super::*;

    #[test]
    fn a_bare_name_is_one_worker_with_every_core() {
        let one = workers("cpu", None).expect("a CPU");
        let cores = std::thread::available_parallelism().expect("a CPU").get();
        assert_eq!(names(&one), ["cpu:0"]);
        assert_eq!(one[0].threads(), Some(cores));
    }

    #[test]
    fn workers_share_the_threads_evenly_and_have_at_least_one() {
        for (count, threads, each) in [(1, 3, 3), (2, 4, 2), (2, 5, 2), (3, 1, 1)] {
            let workers = workers(&format!("cpu:{count}"), Some(threads)).expect("CPU workers");
            assert_eq!(workers.len(), count);
            assert!(workers.iter().all(|worker| worker.threads() == Some(each)));
        }
    }

    #[test]
    fn groups_are_numbered_on_in_the_order_written() {
        let three = workers(" cpu + cpu:2 ", Some(3)).expect("CPU workers");
        assert_eq!(names(&three), ["cpu:0", "cpu:1", "cpu:2"]);
        assert!(three.iter().all(|worker| worker.threads() == Some(1)));
    }

    #[test]
    fn a_job_sees_only_its_own_pool() {
        let workers = workers("cpu:2", Some(6)).expect("CPU workers");
        let seen: Vec<_> = workers
            .iter()
            .map(|worker| {
                worker.install(|| {
                    let thread = std::thread::current().name().map(str::to_owned);
                    (
                        rayon::current_num_threads(),
                        thread.expect("pool threads have names"),
                    )
                })
            })
            .collect();
        assert!(seen.iter().all(|(threads, _)| *threads == 3), "{seen:?}");
        assert!(
            seen[0].1.starts_with("cpu:0 ") && seen[1].1.starts_with("cpu:1 "),
            "{seen:?}"
        );
    }

    #[test]
    fn two_workers_compute_at_the_same_time() {
        let workers = workers("cpu:2", Some(2)).expect("CPU workers");
        let meet = std::sync::Barrier::new(2);
        std::thread::scope(|scope| {
            for worker in &workers {
                let meet = &meet;
                scope.spawn(move || {
                    // Neither gets past this unless both jobs run.
                    worker.install(|| meet.wait());
                    assert_eq!(square(worker), SQUARED);
                });
            }
        });
    }

    #[test]
    fn the_cpu_is_available() {
        assert_eq!(available().first().map(String::as_str), Some("cpu"));
        assert!(
            available()
                .iter()
                .all(|name| workers(name, Some(1)).is_ok())
        );
    }

    #[test]
    fn debug_shows_the_name() {
        let workers = workers("cpu", Some(1)).expect("a CPU");
        let shown = format!("{:?}", workers[0]);
        assert!(shown.contains("cpu:0"), "{shown}");
    }
}

/// Devices numbered by a driver: they compute, or the error says that there is none.
#[cfg(any(feature = "cuda", feature = "wgpu", feature = "tch"))]
fn computes_or_says_why_not(kind: &str) {
    let here = available();
    let first = format!("{kind}:0");
    match workers(&first, None) {
        Ok(workers) => {
            assert!(here.contains(&first), "{here:?}");
            assert_eq!(names(&workers), [first.as_str()]);
            assert_eq!(workers[0].threads(), None);
            assert_eq!(square(&workers[0]), SQUARED);
            assert!(sentence(&format!("{kind}:0,9999")).contains("9999` does not exist"));
        }
        Err(error) => {
            println!("{error}");
            assert!(!here.contains(&first), "{here:?}: {error}");
            let sentence = error.to_string();
            assert!(sentence.starts_with(&format!("`{first}`")), "{sentence}");
            assert!(sentence.contains("driver"), "{sentence}");
        }
    }
}

#[test]
#[cfg(feature = "cuda")]
fn cuda_computes_or_says_why_not() {
    computes_or_says_why_not("cuda");
}

#[test]
#[cfg(feature = "wgpu")]
fn wgpu_computes_or_says_why_not() {
    computes_or_says_why_not("wgpu");
}

#[test]
#[cfg(feature = "tch")]
fn libtorch_cuda_computes_or_says_why_not() {
    computes_or_says_why_not("tch:cuda");
}

#[test]
#[cfg(feature = "tch")]
fn libtorch_workers_compute_with_their_own_threads() {
    let workers = workers("tch:cpu:2", Some(2)).expect("LibTorch workers");
    assert_eq!(names(&workers), ["tch:cpu:0", "tch:cpu:1"]);
    for worker in &workers {
        assert_eq!(worker.threads(), Some(1));
        assert_eq!(worker.install(tch::get_num_threads), 1);
        assert_eq!(square(worker), SQUARED);
    }
}
