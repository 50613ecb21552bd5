//! What a session promises beyond the reference data: the same bits again, only a rank's own weights, failures that name
//! the rank, and runs that can be stopped. On the embedded model.
#![cfg(all(feature = "flex", feature = "embedded"))]

use std::ops::ControlFlow;
use std::sync::Arc;

use asyncdiff_core::AsyncDiff;
use asyncdiff_core::plan::{Action, Run};
use asyncdiff_models::device::workers;
use asyncdiff_models::image::Image;
use asyncdiff_models::quality::psnr;
use asyncdiff_models::{
    Checkpoint, Error, Latents, PartitionChoice, Previewer, Progress, Request, Session, Spread,
    StableDiffusion, Strategy,
};

fn pipeline() -> Arc<StableDiffusion> {
    Arc::new(StableDiffusion::open(Checkpoint::embedded()).unwrap())
}

fn request(pipeline: &StableDiffusion, steps: usize) -> Request {
    let mut request = pipeline.request("red apple, fluent style");
    request.shape.steps = steps;
    request
}

fn strategies() -> Vec<Strategy> {
    let asynchronous = [(2, 1, 0), (3, 1, 1), (4, 1, 0), (2, 2, 1)];
    let asynchronous = asynchronous.map(|(segments, stride, forecast)| {
        Strategy::from(Spread::AsyncDiff {
            partition: PartitionChoice::Published(segments),
            parameters: AsyncDiff {
                stride,
                forecast,
                warm_up: 2,
                time_shift: false,
            },
        })
    });
    std::iter::once(Strategy::sequential())
        .chain(asynchronous)
        .collect()
}

#[test]
fn one_plan_gives_the_same_latents_to_the_last_bit() {
    let pipeline = pipeline();
    let request = request(&pipeline, 6);
    for strategy in strategies() {
        let run = pipeline.plan(&request.shape, &strategy).unwrap();
        let mut outputs = Vec::new();
        // Another session, and the same one again.
        for _ in 0..2 {
            let mut session = Session::new(&pipeline, workers("cpu:5", None).unwrap()).unwrap();
            for _ in 0..2 {
                outputs.push(
                    session
                        .generate(&run, &request.content, &mut ())
                        .unwrap()
                        .latents,
                );
            }
        }
        assert!(
            outputs.windows(2).all(|pair| pair[0] == pair[1]),
            "{strategy:?}"
        );
    }
}

#[test]
fn a_rank_loads_its_own_blocks_only() {
    let pipeline = pipeline();
    let request = request(&pipeline, 6);
    let mut session = Session::new(&pipeline, workers("cpu:5", None).unwrap()).unwrap();
    let mut whole = 0;
    for strategy in strategies() {
        let run = pipeline.plan(&request.shape, &strategy).unwrap();
        session.prepare(&run).unwrap();
        session.trim(&run);
        let mut announced: Vec<u64> = run
            .summary
            .ranks
            .iter()
            .map(|rank| rank.weight_bytes)
            .collect();
        let ranks = announced.len();
        announced.resize(5, 0);
        assert_eq!(session.loaded_bytes(), announced, "{strategy:?}");
        announced.truncate(ranks);
        if strategy == Strategy::sequential() {
            whole = announced[0];
        } else {
            assert!(announced.iter().all(|bytes| *bytes < whole), "{strategy:?}");
        }
    }
}

/// Stops after a number of steps.
struct StopAfter(usize);

impl Progress for StopAfter {
    fn step(&mut self, done: usize, _: usize, _: &Latents) -> ControlFlow<()> {
        if done == self.0 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }
}

#[test]
fn a_run_can_be_stopped_and_the_session_goes_on() {
    let pipeline = pipeline();
    let request = request(&pipeline, 8);
    let run = pipeline
        .plan(&request.shape, &Strategy::segments(3))
        .unwrap();
    let mut session = Session::new(&pipeline, workers("cpu:3", None).unwrap()).unwrap();
    for step in [1, 5] {
        let result = session.generate(&run, &request.content, &mut StopAfter(step));
        assert!(matches!(result, Err(Error::Cancelled)), "{result:?}");
    }
    session.generate(&run, &request.content, &mut ()).unwrap();
}

/// Makes a picture of every step.
struct Album {
    previewer: Previewer,
    pictures: Vec<Vec<Image>>,
}

impl Progress for Album {
    fn step(&mut self, done: usize, _: usize, latents: &Latents) -> ControlFlow<()> {
        self.pictures
            .push(self.previewer.pictures(done, latents).unwrap());
        ControlFlow::Continue(())
    }
}

#[test]
fn previews_change_nothing_and_end_with_the_picture() {
    let pipeline = pipeline();
    let mut request = request(&pipeline, 6);
    request.shape.num_images = 2;
    // A scheduler whose noisy latents are much larger than the picture's.
    request.shape.scheduler = Some("euler".to_owned());
    for strategy in strategies() {
        let run = pipeline.plan(&request.shape, &strategy).unwrap();
        let mut session = Session::new(&pipeline, workers("cpu:5", None).unwrap()).unwrap();
        let plain = session.generate(&run, &request.content, &mut ()).unwrap();
        let mut album = Album {
            previewer: session.previewer(&run, &request.content),
            pictures: Vec::new(),
        };
        let watched = session
            .generate(&run, &request.content, &mut album)
            .unwrap();
        assert_eq!(plain.latents, watched.latents, "{strategy:?}");
        assert_eq!(album.pictures.len(), run.plan.calls);
        let distances: Vec<f64> = album
            .pictures
            .iter()
            .map(|pictures| {
                assert_eq!(pictures.len(), 2);
                psnr(&pictures[1], &plain.images[1]).unwrap()
            })
            .collect();
        // Ever more like the picture, and the picture at the end.
        assert!(distances.is_sorted(), "{strategy:?}: {distances:?}");
        assert_eq!(distances.last(), Some(&f64::INFINITY));
    }
}

#[test]
fn a_rank_that_panics_is_named() {
    let pipeline = pipeline();
    let request = request(&pipeline, 8);
    let mut run = pipeline
        .plan(&request.shape, &Strategy::segments(2))
        .unwrap();
    let mut session = Session::new(&pipeline, workers("cpu:2", None).unwrap()).unwrap();
    session.prepare(&run).unwrap();
    // Rank 1 is told to compute, in the middle of the run, a block whose weights it does not hold.
    let foreign = run.plan.blocks[0][3];
    let middle = run.plan.ranks[1].len() / 2;
    let action = run.plan.ranks[1][middle..]
        .iter_mut()
        .find_map(|instruction| match &mut instruction.action {
            Action::Run(Run { block, .. }) => Some(block),
            _ => None,
        });
    *action.unwrap() = foreign;
    let error = session
        .generate(&run, &request.content, &mut ())
        .unwrap_err()
        .to_string();
    assert!(error.contains("rank 1 on cpu:1 panicked"), "{error}");
}

#[test]
fn too_few_workers_are_an_error_that_says_how_many_are_needed() {
    let pipeline = pipeline();
    let request = request(&pipeline, 8);
    let run = pipeline
        .plan(&request.shape, &Strategy::segments(4))
        .unwrap();
    let mut session = Session::new(&pipeline, workers("cpu:2", None).unwrap()).unwrap();
    let error = session
        .generate(&run, &request.content, &mut ())
        .unwrap_err();
    assert!(
        matches!(
            error,
            Error::NotEnoughWorkers {
                needed: 4,
                found: 2
            }
        ),
        "{error}"
    );
    assert!(matches!(
        Session::new(&pipeline, Vec::new()),
        Err(Error::NotEnoughWorkers {
            needed: 1,
            found: 0
        })
    ));
}

#[test]
fn what_the_makers_recommend_is_the_default() {
    let shape = pipeline().shape();
    // From the model's generation_config.json and its UNet's and VAE's config.json.
    assert_eq!((shape.guidance_scale, shape.steps), (3.0, 50));
    assert_eq!((shape.width, shape.height), (64, 64));
}
