//! What a session promises beyond the reference data: the same bits again, only a rank's own weights, failures that name
//! the rank, and runs that can be stopped. On the embedded model.
#![cfg(all(feature = "flex", feature = "embedded"))]

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::slice::from_ref;
use std::sync::Arc;
use std::thread;

use asyncdiff_core::AsyncDiff;
use asyncdiff_core::plan::{Action, Run};
use asyncdiff_models::device::workers;
use asyncdiff_models::image::{Image, Mask};
use asyncdiff_models::quality::{psnr, relative_error};
use asyncdiff_models::random::TorchRng;
use asyncdiff_models::{
    Cancel, Checkpoint, Clean, Content, Doing, Error, InitImage, Latents, Lead, MeasuredMachine,
    NamedTensor, Output, PartitionChoice, Parts, Previewer, Progress, Rank, Request, Session,
    Shape, Spread, StableDiffusion, Strategy, Timeline,
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

/// Makes a picture of every prediction, and keeps what it is told.
struct Album {
    previewer: Previewer,
    pictures: Vec<Vec<Image>>,
    /// The same of the noisy latents.
    noisy_pictures: Vec<Vec<Image>>,
    clean: Vec<Vec<f32>>,
    noisy: Vec<Vec<f32>>,
}

fn values(latents: &Latents) -> Vec<f32> {
    latents.to_data().iter::<f32>().collect()
}

impl Progress for Album {
    fn step(&mut self, done: usize, _: usize, latents: &Latents) -> ControlFlow<()> {
        let pictures = self.previewer.pictures_of(latents.clone());
        self.noisy_pictures.push(pictures.unwrap());
        self.noisy.push(values(latents));
        assert_eq!(self.noisy.len(), done, "every call is told of, in order");
        assert_eq!(self.clean.len(), done, "after its prediction");
        ControlFlow::Continue(())
    }

    fn predicted(&mut self, _: usize, _: usize, clean: &Clean<'_>) -> ControlFlow<()> {
        self.pictures.push(self.previewer.pictures(clean).unwrap());
        self.clean.push(values(&clean.latents()));
        ControlFlow::Continue(())
    }
}

/// What a run tells, and what it makes with nobody watching.
fn album(
    pipeline: &Arc<StableDiffusion>,
    request: &Request,
    run: &asyncdiff_models::Run,
) -> (Album, Output) {
    let mut session = Session::new(pipeline, workers("cpu:5", None).unwrap()).unwrap();
    let plain = session.generate(run, &request.content, &mut ()).unwrap();
    let mut album = Album {
        previewer: session.previewer(),
        pictures: Vec::new(),
        noisy_pictures: Vec::new(),
        clean: Vec::new(),
        noisy: Vec::new(),
    };
    let watched = session.generate(run, &request.content, &mut album).unwrap();
    assert_eq!(plain.latents, watched.latents, "{}", run.strategy);
    assert_eq!(album.pictures.len(), run.plan.calls);
    (album, plain)
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
        let (album, plain) = album(&pipeline, &request, &run);
        // Against the picture, both shrunk to the size of the latents.
        let distance = |pictures: &Vec<Image>| {
            assert_eq!(pictures.len(), 2);
            let [preview, picture] = [&pictures[1], &plain.images[1]];
            assert_eq!((preview.width, preview.height), (64, 64));
            let small = [preview, picture].map(|image| image.resized(16, 16).unwrap());
            psnr(&small[0], &small[1]).unwrap()
        };
        let distances: Vec<f64> = album.pictures.iter().map(distance).collect();
        let noisy: Vec<f64> = album.noisy_pictures.iter().map(distance).collect();
        // The last call's prediction is the final latents. Even a linear map that is fitted to this model's own latents and pictures
        // (eight of them, by NumPy's least squares) makes no more than 25.8 dB of them; ours has not seen them.
        assert!(*distances.last().unwrap() > 22.0, "{distances:?}");
        assert!((noisy[5] - distances[5]).abs() < 0.1, "{noisy:?}");
        assert!(noisy[0] < distances[5] - 10.0, "{noisy:?}");
        // Ever more like the picture. With activations of the call before, and steps this large, predictions go to and fro
        // at first.
        if strategy.is_sequential() {
            assert!(distances.is_sorted(), "{distances:?}");
        }
        assert!(distances[0] < distances[4], "{strategy:?}: {distances:?}");
    }
}

/// DDIM keeps a call's clean latents and noise from one level to the next, so two noisy latents say what they are, without
/// the prediction.
#[test]
fn the_clean_latents_of_ddim_are_on_the_line_through_two_noisy_ones() {
    let pipeline = pipeline();
    let request = request(&pipeline, 7);
    let look_ahead = [
        Spread::ring().into(),
        Spread::copies(2).into(),
        Strategy::sequential().split(),
    ];
    for strategy in strategies().into_iter().take(3).chain(look_ahead) {
        let run = pipeline.plan(&request.shape, &strategy).unwrap();
        let (album, _) = album(&pipeline, &request, &run);
        // The last step goes to a level of its own.
        for call in 1..run.plan.calls - 1 {
            let [from, to] = [call, call + 1].map(|index| run.schedule.levels[index]);
            let (noise, signal) = (to.noise as f32, to.signal as f32);
            let (before, after) = (&album.noisy[call - 1], &album.noisy[call]);
            let scale = from.signal as f32 * noise - signal * from.noise as f32;
            let line = before
                .iter()
                .zip(after)
                .map(|(before, after)| (noise * before - from.noise as f32 * after) / scale);
            let line: Vec<f32> = line.collect();
            let error = relative_error(&album.clean[call], &line).unwrap();
            assert!(error < 1e-3, "{strategy:?}, call {call}: {error}");
        }
    }
}

/// The largest distance of two pictures' bytes.
fn farthest(a: &Image, b: &Image) -> Option<u8> {
    let pairs = a.rgb.iter().zip(&b.rgb);
    pairs.map(|(a, b)| a.abs_diff(*b)).max()
}

/// On the embedded model, and on one with two text encoders.
#[test]
fn contents_that_are_made_together_are_what_they_are_alone() {
    let xl = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/sdxl/checkpoint");
    for checkpoint in [Checkpoint::embedded(), Checkpoint::folder(xl).unwrap()] {
        let pipeline = Arc::new(StableDiffusion::open(checkpoint).unwrap());
        let prompts = ["red apple, fluent style", "blue (fish:1.4)", "rocket"];
        let contents = prompts.iter().enumerate().map(|(index, prompt)| {
            let mut content = pipeline.content(*prompt);
            content.seed = 40 + 10 * index as u64;
            content.prompt_weighting = true;
            if index == 1 {
                content.negative_prompt = "flat style".to_owned();
            }
            content
        });
        let contents: Vec<_> = contents.collect();
        let mut shape = request(&pipeline, 5).shape;
        // Its noise is drawn on the way, too.
        shape.scheduler = Some("euler-ancestral".to_owned());
        for (guidance_scale, strategy) in [
            (3.0, Strategy::sequential()),
            (3.0, Strategy::sequential().split()),
            (1.0, Strategy::sequential()),
        ] {
            shape.guidance_scale = guidance_scale;
            let mut session = Session::new(&pipeline, workers("cpu:2", Some(2)).unwrap()).unwrap();
            let mut make = |each: usize, contents: &[Content]| {
                shape.num_images = each * contents.len();
                let run = pipeline.plan(&shape, &strategy).unwrap();
                let made = session.generate_together(&run, contents, &mut ());
                made.unwrap().images
            };
            let together = make(2, &contents);
            assert_eq!(together.len(), 6);
            for (content, together) in contents.iter().zip(together.chunks(2)) {
                let alone = make(2, from_ref(content));
                for (alone, together) in alone.iter().zip(together) {
                    let far = farthest(alone, together);
                    // Sums of a larger batch come in another order.
                    assert!(far <= Some(1), "{}: {far:?}", content.prompt);
                }
            }
            assert!(farthest(&together[0], &together[2]) > Some(20));
        }
    }
}

#[test]
fn contents_that_share_no_batch_are_refused() {
    let pipeline = pipeline();
    let Request { mut shape, content } = request(&pipeline, 1);
    shape.num_images = 3;
    let run = pipeline.plan(&shape, &Strategy::sequential()).unwrap();
    let mut session = Session::new(&pipeline, workers("cpu", None).unwrap()).unwrap();
    let mut drawn = content.clone();
    drawn.batch_noise = true;
    for contents in [
        vec![content.clone(); 2],
        vec![content.clone(), content.clone(), drawn],
    ] {
        let refused = session.generate_together(&run, &contents, &mut ());
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("of 3 images"), "{refused}");
    }
    let nothing = session.generate_together(&run, &[], &mut ());
    assert!(nothing.is_err());
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

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => copy(&path, &target),
            false => drop(fs::copy(&path, &target).unwrap()),
        }
    }
}

#[test]
fn what_is_loaded_stays_until_it_is_trimmed() {
    let folder = tempfile::tempdir().unwrap();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/sd15/checkpoint");
    copy(&fixture, folder.path());
    let open = |folder: &Path| {
        let checkpoint = Checkpoint::folder(folder).unwrap();
        Arc::new(StableDiffusion::open(checkpoint).unwrap())
    };
    let pipeline = open(folder.path());
    let mut request = request(&pipeline, 3);
    (request.shape.width, request.shape.height) = (64, 64);
    let sequential = pipeline
        .plan(&request.shape, &Strategy::sequential())
        .unwrap();
    let halves = pipeline
        .plan(&request.shape, &Strategy::segments(2))
        .unwrap();
    let [first, second] = [0, 1].map(|rank: usize| halves.summary.ranks[rank].weight_bytes);
    let whole = sequential.summary.ranks[0].weight_bytes;

    let mut session = Session::new(&pipeline, workers("cpu:2", None).unwrap()).unwrap();
    session.prepare(&sequential).unwrap();
    assert_eq!(session.loaded_bytes(), [whole, 0]);
    session.prepare(&halves).unwrap();
    assert_eq!(session.loaded_bytes(), [whole, second]);
    // Nothing is read again: there is nothing left to read.
    fs::remove_file(
        folder
            .path()
            .join("unet/diffusion_pytorch_model.safetensors"),
    )
    .unwrap();
    let original = open(&fixture);
    for run in [&sequential, &halves] {
        let found = session.generate(run, &request.content, &mut ()).unwrap();
        let mut fresh = Session::new(&original, workers("cpu:2", None).unwrap()).unwrap();
        let expected = fresh.generate(run, &request.content, &mut ()).unwrap();
        assert_eq!(found.latents, expected.latents);
    }
    session.trim(&halves);
    assert_eq!(session.loaded_bytes(), [first, second]);
    session
        .generate(&halves, &request.content, &mut ())
        .unwrap();
    // What another rank on the device has is not read again either.
    let branches = Strategy {
        guidance_split: true,
        ..Strategy::sequential()
    };
    let branches = pipeline.plan(&request.shape, &branches).unwrap();
    session.prepare(&branches).unwrap();
    assert_eq!(session.loaded_bytes(), [whole, whole]);
    session.trim(&sequential);
    assert_eq!(session.loaded_bytes(), [whole, 0]);
    session.trim(&halves);
    let gone = session.prepare(&sequential).unwrap_err().to_string();
    assert!(gone.contains("unet"), "{gone}");
}

#[test]
fn shapes_and_contents_survive_json() {
    let pipeline = pipeline();
    let mut request = request(&pipeline, 6);
    let (width, height) = (request.shape.width, request.shape.height);
    let rgb = (0..3 * width * height).map(|at| (at % 251) as u8).collect();
    let grey = (0..width * height).map(|at| (at % 256) as u8).collect();
    request.start_from(InitImage::inpaint(
        Image { width, height, rgb },
        Mask {
            width,
            height,
            grey,
        },
    ));
    request.shape.start = request.shape.start.with_strength(0.5);
    request.content.latents = Some(NamedTensor {
        name: "noise".to_owned(),
        shape: vec![1, 4, 8, 8],
        values: TorchRng::new(1).randn(256),
    });
    let json = serde_json::to_string(&request).unwrap();
    let read: Request = serde_json::from_str(&json).unwrap();
    assert_eq!(read, request);
    // A kept plan serves the same shape.
    let strategy = Strategy::segments(2);
    let [kept, made] =
        [&read, &request].map(|request| pipeline.plan(&request.shape, &strategy).unwrap());
    assert_eq!(kept.plan, made.plan);
}

#[test]
fn a_content_that_the_run_was_not_planned_for_is_an_error() {
    let pipeline = pipeline();
    let plain = request(&pipeline, 6);
    let mut painted = plain.clone();
    let (width, height) = (plain.shape.width, plain.shape.height);
    let rgb = vec![0; 3 * width * height];
    painted.start_from(InitImage::new(Image { width, height, rgb }));
    let mut session = Session::new(&pipeline, workers("cpu", None).unwrap()).unwrap();
    for (shape, content, sentence) in [
        (
            &plain.shape,
            &painted.content,
            "start from noise alone, and is given a picture",
        ),
        (
            &painted.shape,
            &plain.content,
            "start from a picture, and is given noise alone",
        ),
    ] {
        let run = pipeline.plan(shape, &Strategy::sequential()).unwrap();
        let error = session.generate(&run, content, &mut ()).unwrap_err();
        assert!(error.to_string().contains(sentence), "{error}");
    }
}

#[test]
fn a_measured_machine_has_a_time_for_every_block_and_fits_its_runs_only() {
    let pipeline = pipeline();
    let shape = request(&pipeline, 6).shape;
    let mut session = Session::new(&pipeline, workers("cpu:2", Some(2)).unwrap()).unwrap();
    let measured = session.measure(&shape, 3).unwrap();
    assert_eq!(session.loaded_bytes()[1..], session.loaded_bytes()[..1]);
    let json = serde_json::to_string(&measured).unwrap();
    let measured: MeasuredMachine = serde_json::from_str(&json).unwrap();
    assert_eq!(measured.devices, ["cpu:0", "cpu:1"]);
    let run = pipeline.plan(&shape, &Strategy::sequential()).unwrap();
    let machine = measured.machine_for(&run.graph, run.dtype).unwrap();
    assert_eq!(machine.block_time.len(), run.graph.blocks.len());
    assert_eq!(machine.speed.len(), 2);
    assert!(machine.latency > 0.0 && machine.latency < 1.0);
    // Half of a batch is less work, over all blocks.
    let total = |times: &[f64]| times.iter().sum::<f64>();
    assert!(total(&machine.half_time) < total(&machine.block_time));

    // The segments of a machine that says so are of equal time.
    let strategy = Strategy::from(Spread::AsyncDiff {
        partition: PartitionChoice::Balanced(2),
        parameters: AsyncDiff::default(),
    });
    let mut slow = measured.clone();
    slow.machine.block_time.fill(1e-9);
    *slow.machine.block_time.last_mut().unwrap() = 1.0;
    let owned = |measured| {
        let run = pipeline.plan_on(measured, &shape, &strategy).unwrap();
        run.plan.blocks
    };
    let last = vec![asyncdiff_core::BlockId(run.graph.blocks.len() - 1)];
    assert!(owned(Some(&slow)).contains(&last));
    assert!(!owned(None).contains(&last));

    let mut other = shape.clone();
    other.num_images = 2;
    let refused = |shape: &Shape, measured: &MeasuredMachine| {
        let planned = pipeline.plan_on(Some(measured), shape, &strategy);
        planned.unwrap_err().to_string()
    };
    assert!(refused(&other, &measured).contains("measure it at this size"));
    let mut damaged = measured.clone();
    damaged.machine.half_time.pop();
    assert!(refused(&shape, &damaged).contains("half times are no measurement"));
    damaged.blocks.pop();
    assert!(refused(&shape, &damaged).contains("another denoiser"));
}

/// As in processes of their own: nothing is shared but the messages.
#[test]
fn ranks_and_parts_alone_make_what_a_session_makes() {
    let pipeline = pipeline();
    let Request { shape, content } = request(&pipeline, 4);
    let run = pipeline.plan(&shape, &Strategy::segments(2)).unwrap();
    let mut session = Session::new(&pipeline, workers("cpu:2", Some(2)).unwrap()).unwrap();
    let expected = session.generate(&run, &content, &mut ()).unwrap().latents;

    let workers = workers("cpu:2", Some(2)).unwrap().into_iter();
    let mut ranks: Vec<Rank> = workers
        .map(|worker| Rank::new(&pipeline, worker).unwrap())
        .collect();
    for (index, rank) in ranks.iter_mut().enumerate() {
        rank.prepare(&run, index).unwrap();
    }
    let first = ranks[0].worker();
    let (conditioning, start) = first.install(|| {
        let parts = Parts::load(&pipeline, first.device()).unwrap();
        let mut conditioning = parts.encode(&shape, from_ref(&content)).unwrap();
        let start = parts.start(&run, from_ref(&content), &mut conditioning);
        (conditioning, start.unwrap())
    });
    let mut start = Some(start);
    let peers = asyncdiff_comm::local::world(2);
    let latents = thread::scope(|scope| {
        let threads: Vec<_> = ranks
            .iter()
            .zip(peers)
            .enumerate()
            .map(|(index, (rank, peer))| {
                let (run, conditioning) = (&run, conditioning.clone());
                let start = start.take_if(|_| index == run.plan.latents_rank);
                scope.spawn(move || {
                    let mut silent = ();
                    let progress: &mut dyn Progress = &mut silent;
                    let lead = start.map(|start| Lead { start, progress });
                    let part = || rank.run(run, index, conditioning, lead, peer).unwrap();
                    rank.worker().install(part)
                })
            })
            .collect();
        let latents = threads
            .into_iter()
            .filter_map(|thread| thread.join().unwrap());
        latents.collect::<Vec<_>>()
    });
    let [latents] = &latents[..] else {
        panic!("one rank has the latents")
    };
    let found: Vec<f32> = latents.clone().into_data().try_to_vec().unwrap();
    assert_eq!(found, expected);
}

/// Asks for the end of a run after a number of steps, and lets it go on.
struct AskAfter {
    steps: usize,
    cancel: Cancel,
    last: usize,
}

impl Progress for AskAfter {
    fn step(&mut self, done: usize, _: usize, _: &Latents) -> ControlFlow<()> {
        self.last = done;
        if done == self.steps {
            self.cancel.ask();
        }
        ControlFlow::Continue(())
    }

    fn cancel(&self) -> Cancel {
        self.cancel.clone()
    }
}

#[test]
fn a_run_ends_between_two_blocks_and_in_encoding_and_decoding() {
    let pipeline = pipeline();
    let request = request(&pipeline, 5);
    for strategy in [Strategy::sequential(), Strategy::segments(2)] {
        let run = pipeline.plan(&request.shape, &strategy).unwrap();
        let mut session = Session::new(&pipeline, workers("cpu:2", None).unwrap()).unwrap();
        for steps in 0..=5 {
            let mut progress = AskAfter {
                steps,
                cancel: Cancel::default(),
                last: 0,
            };
            if steps == 0 {
                // Before anything is encoded.
                progress.cancel.ask();
            }
            let result = session.generate(&run, &request.content, &mut progress);
            assert!(matches!(result, Err(Error::Cancelled)), "{result:?}");
            // Not even the next step is taken; after the last one, the decoder sees it.
            assert_eq!(progress.last, steps);
        }
        // The next run knows nothing of that.
        session.generate(&run, &request.content, &mut ()).unwrap();
        session.encode(&request.shape, &request.content).unwrap();
    }
}

/// Has a time line.
struct Timed(Timeline);

impl Progress for Timed {
    fn step(&mut self, _: usize, _: usize, _: &Latents) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn timeline(&self) -> Option<Timeline> {
        Some(self.0.clone())
    }
}

#[test]
fn a_time_line_has_every_call_of_every_rank() {
    let pipeline = pipeline();
    let request = request(&pipeline, 6);
    let strategy = Strategy::from(Spread::ring());
    let run = pipeline.plan(&request.shape, &strategy).unwrap();
    let mut session = Session::new(&pipeline, workers("cpu:2", None).unwrap()).unwrap();
    let plain = session.generate(&run, &request.content, &mut ()).unwrap();
    let mut progress = Timed(Timeline::new());
    let output = session
        .generate(&run, &request.content, &mut progress)
        .unwrap();
    // Who looks changes nothing.
    assert_eq!(output.latents, plain.latents);
    let spans = progress.0.after(0);
    assert_eq!(progress.0.after(spans.len()), []);
    for (rank, actions) in run.plan.ranks.iter().enumerate() {
        let lane: Vec<_> = spans.iter().filter(|span| span.rank == rank).collect();
        let mut calls: Vec<_> = lane
            .iter()
            .filter(|span| span.doing == Doing::Call)
            .map(|span| span.call)
            .collect();
        calls.sort_unstable();
        calls.dedup();
        let mut planned: Vec<_> = actions
            .iter()
            .filter_map(|instruction| match &instruction.action {
                Action::Run(Run { version, .. }) => Some(*version),
                _ => None,
            })
            .collect();
        planned.sort_unstable();
        planned.dedup();
        assert_eq!(calls, planned, "rank {rank}");
        assert!(
            lane.windows(2).all(|pair| pair[0].to <= pair[1].from),
            "{lane:?}"
        );
        let busy: f64 = lane.iter().map(|span| span.to - span.from).sum();
        let denoising = output.timings.denoise.as_secs_f64();
        assert!(0.0 < busy && busy <= denoising, "{busy} of {denoising}");
    }
}
