//! Asynchronous runs beside the sequential one: how much sooner, and how much alike.

use std::time::Duration;

use asyncdiff_core::Strategy;

use crate::error::Error;
use crate::image::Image;
use crate::pipeline::{Run, StableDiffusion};
use crate::quality::{check_size, relative_error, video_psnr, video_ssim};
use crate::request::{Content, Request, Shape};
use crate::session::{Output, Progress, Session};

/// One line of a comparison.
#[derive(Clone, Debug)]
pub struct Row {
    /// What was run.
    pub kind: Kind,
    /// Ranks that it used.
    pub ranks: usize,
    /// Inference steps.
    pub steps: usize,
    /// Median time of the denoising steps.
    pub time: Duration,
    /// The baseline's time over this one's.
    pub speed_up: f64,
    /// What it would be on equal devices and links that cost nothing, warm-up included.
    pub ideal_speed_up: f64,
    /// Peak signal-to-noise ratio of the first picture or video against the baseline's, in dB, over all frames.
    pub psnr: f64,
    /// Structural similarity of the first picture or video to the baseline's, up to 1, the mean over the frames.
    pub ssim: f64,
    /// `‖latents - baseline‖ / ‖baseline‖`.
    pub latent_error: f64,
    /// Whether the output is the same bit for bit in every repetition. If not, the times mean nothing.
    pub sound: bool,
    /// The frames of the first video; a picture has one.
    pub frames: Vec<Image>,
}

/// What a [`Row`] is about.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// The sequential run with all steps.
    Baseline,
    /// A run that is spread over ranks.
    Spread(Strategy),
    /// A sequential run with as many steps as fit into the time of the run before it: what the devices of that
    /// run have to beat.
    FewerSteps,
}

/// A request, planned sequentially and by several strategies.
#[derive(Clone, Debug)]
pub struct Comparison<'a> {
    pipeline: &'a StableDiffusion,
    content: Content,
    baseline: Run,
    runs: Vec<Run>,
}

impl<'a> Comparison<'a> {
    /// Plans all runs, so that whatever is wrong with one of them is said before any of them starts.
    ///
    /// # Errors
    ///
    /// As [`StableDiffusion::plan`] and [`StableDiffusion::check_complete`]; [`Error::Quality`] for pictures too small to be compared.
    pub fn plan(
        pipeline: &'a StableDiffusion,
        request: &Request,
        strategies: &[Strategy],
    ) -> Result<Self, Error> {
        let Request { shape, content } = request;
        let baseline = pipeline.plan(shape, &Strategy::sequential())?;
        pipeline.check_complete(shape, content)?;
        check_size(shape.width, shape.height)?;
        let plan = |strategy: &Strategy| pipeline.plan(shape, strategy);
        Ok(Self {
            pipeline,
            content: content.clone(),
            baseline,
            runs: strategies.iter().map(plan).collect::<Result<_, Error>>()?,
        })
    }

    /// The sequential run with all steps.
    #[must_use]
    pub fn baseline(&self) -> &Run {
        &self.baseline
    }

    /// How many runs there are, the sequential one included, but not those with fewer steps.
    #[must_use]
    pub fn runs(&self) -> usize {
        1 + self.runs.len()
    }

    /// The most ranks that a run needs.
    #[must_use]
    pub fn ranks(&self) -> usize {
        let ranks = self.runs.iter().map(|run| run.plan.ranks.len());
        ranks.max().unwrap_or(1)
    }

    /// Does every run `repeat` times in turn, so that all see the same machine. Then the sequential runs with fewer steps.
    ///
    /// # Errors
    ///
    /// As [`Session::generate`]; [`Error::NotEnoughWorkers`] before anything runs.
    pub fn run(
        self,
        session: &mut Session,
        repeat: usize,
        progress: &mut dyn Progress,
    ) -> Result<Vec<Row>, Error> {
        let (needed, found) = (self.ranks(), session.workers().len());
        if found < needed {
            return Err(Error::NotEnoughWorkers { needed, found });
        }
        let shape = self.baseline.shape.clone();
        let mut measured = vec![Measured::new(Kind::Baseline, self.baseline)];
        for run in self.runs {
            measured.push(Measured::new(Kind::Spread(run.strategy.clone()), run));
        }
        measure(&mut measured, session, &self.content, repeat, progress)?;

        let baseline = measured.remove(0);
        let mut rows = vec![baseline.row(&baseline)?];
        for spread in measured {
            let row = spread.row(&baseline)?;
            let steps = (shape.steps as f64 / row.speed_up).round().max(1.0) as usize;
            rows.push(row);
            let fewer = Shape {
                steps,
                ..shape.clone()
            };
            // A scheduler may have a least number of steps; then there is nothing to compare with.
            if steps < shape.steps
                && let Ok(run) = self.pipeline.plan(&fewer, &Strategy::sequential())
            {
                let mut fewer = [Measured::new(Kind::FewerSteps, run)];
                measure(&mut fewer, session, &self.content, repeat, progress)?;
                rows.push(fewer[0].row(&baseline)?);
            }
        }
        Ok(rows)
    }
}

struct Measured {
    kind: Kind,
    run: Run,
    /// The first output. Of the others only the time counts, and whether they are the same.
    first: Option<Output>,
    times: Vec<Duration>,
    sound: bool,
}

fn measure(
    runs: &mut [Measured],
    session: &mut Session,
    content: &Content,
    repeat: usize,
    progress: &mut dyn Progress,
) -> Result<(), Error> {
    for _ in 0..repeat.max(1) {
        for measured in &mut *runs {
            let output = session.generate(&measured.run, content, progress)?;
            measured.add(output);
        }
    }
    Ok(())
}

impl Measured {
    fn new(kind: Kind, run: Run) -> Self {
        Self {
            kind,
            run,
            first: None,
            times: Vec::new(),
            sound: true,
        }
    }

    fn add(&mut self, output: Output) {
        self.times.push(output.timings.denoise);
        let first = self.first.get_or_insert_with(|| output.clone());
        self.sound &= output.latents == first.latents;
    }

    fn output(&self) -> &Output {
        self.first
            .as_ref()
            .expect("a run is measured at least once")
    }

    fn time(&self) -> Duration {
        let mut times = self.times.clone();
        times.sort();
        times[times.len() / 2]
    }

    fn row(&self, baseline: &Self) -> Result<Row, Error> {
        let (first, exact) = (self.output(), baseline.output());
        let video = |output: &Output| output.images[..output.frames].to_vec();
        let (frames, reference) = (video(first), video(exact));
        let calls = baseline.run.plan.calls as f64 / self.run.plan.calls as f64;
        Ok(Row {
            kind: self.kind.clone(),
            ranks: self.run.plan.ranks.len(),
            steps: self.run.shape.steps,
            time: self.time(),
            speed_up: baseline.time().as_secs_f64() / self.time().as_secs_f64(),
            ideal_speed_up: calls * self.run.summary.ideal_speed_up,
            psnr: video_psnr(&frames, &reference)?,
            ssim: video_ssim(&frames, &reference)?,
            latent_error: relative_error(&first.latents, &exact.latents)?,
            sound: self.sound,
            frames,
        })
    }
}
