//! Asynchronous runs beside the sequential one: how much sooner, and how much alike.

use std::time::Duration;

use asyncdiff_core::Strategy;

use crate::error::Error;
use crate::image::Image;
use crate::measured::MeasuredMachine;
use crate::pipeline::{Run, StableDiffusion};
use crate::quality::{check_size, psnr_of_samples, relative_error, video_ssim};
use crate::request::{Content, Shape};
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
    /// Peak signal-to-noise ratio of the first picture or video against the baseline's, in dB, over all frames, before samples
    /// are rounded to bytes; the mean over the prompts.
    pub psnr: f64,
    /// The same of the prompt where it is the lowest.
    pub worst_psnr: f64,
    /// Structural similarity of the first picture or video to the baseline's, up to 1, the mean over frames and prompts.
    pub ssim: f64,
    /// `‖latents - baseline‖ / ‖baseline‖`, the mean over the prompts.
    pub latent_error: f64,
    /// Whether the output is the same bit for bit in every repetition. If not, the times mean nothing.
    pub sound: bool,
    /// The frames of the first prompt's first video; a picture has one.
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

/// A shape and what is to be made in it, planned sequentially and by several strategies.
#[derive(Clone, Debug)]
pub struct Comparison<'a> {
    pipeline: &'a StableDiffusion,
    contents: Vec<Content>,
    baseline: Run,
    runs: Vec<Run>,
}

impl<'a> Comparison<'a> {
    /// Plans all runs, balanced for a machine if it was measured, so that whatever is wrong with one of them is said before any of them starts. Each will make all of
    /// `contents`.
    ///
    /// # Errors
    ///
    /// As [`StableDiffusion::plan_on`] and [`StableDiffusion::check_complete`]; [`Error::Quality`] for pictures too small to be compared.
    pub fn plan(
        pipeline: &'a StableDiffusion,
        machine: Option<&MeasuredMachine>,
        shape: &Shape,
        contents: &[Content],
        strategies: &[Strategy],
    ) -> Result<Self, Error> {
        let baseline = pipeline.plan(shape, &Strategy::sequential())?;
        for content in contents {
            pipeline.check_complete(shape, content)?;
        }
        check_size(shape.width, shape.height)?;
        let plan = |strategy: &Strategy| pipeline.plan_on(machine, shape, strategy);
        Ok(Self {
            pipeline,
            contents: contents.to_vec(),
            baseline,
            runs: strategies.iter().map(plan).collect::<Result<_, Error>>()?,
        })
    }

    /// Leaves out the runs that need more than so many devices, as long as one is left; returns how they were to be spread.
    pub fn leave_out(&mut self, devices: usize) -> Vec<Strategy> {
        let fits = |run: &Run| run.plan.ranks.len() <= devices;
        if !self.runs.iter().any(fits) {
            return Vec::new();
        }
        let (kept, left): (Vec<_>, Vec<_>) = self.runs.drain(..).partition(fits);
        self.runs = kept;
        left.into_iter().map(|run| run.strategy).collect()
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
        measure(&mut measured, session, &self.contents, repeat, progress)?;

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
                measure(&mut fewer, session, &self.contents, repeat, progress)?;
                rows.push(fewer[0].row(&baseline)?);
            }
        }
        Ok(rows)
    }
}

struct Measured {
    kind: Kind,
    run: Run,
    /// The first output of every prompt. Of the others only the time counts, and whether they are the same.
    first: Vec<Output>,
    times: Vec<Duration>,
    sound: bool,
}

fn measure(
    runs: &mut [Measured],
    session: &mut Session,
    contents: &[Content],
    repeat: usize,
    progress: &mut dyn Progress,
) -> Result<(), Error> {
    for _ in 0..repeat.max(1) {
        for (index, content) in contents.iter().enumerate() {
            for measured in &mut *runs {
                let output = session.generate(&measured.run, content, progress)?;
                measured.add(index, output);
            }
        }
    }
    Ok(())
}

impl Measured {
    fn new(kind: Kind, run: Run) -> Self {
        Self {
            kind,
            run,
            first: Vec::new(),
            times: Vec::new(),
            sound: true,
        }
    }

    fn add(&mut self, index: usize, output: Output) {
        self.times.push(output.timings.denoise);
        match self.first.get(index) {
            Some(first) => self.sound &= output.latents == first.latents,
            None => self.first.push(output),
        }
    }

    fn time(&self) -> Duration {
        let mut times = self.times.clone();
        times.sort();
        times.get(times.len() / 2).copied().unwrap_or_default()
    }

    fn row(&self, baseline: &Self) -> Result<Row, Error> {
        let video = |output: &Output| output.images[..output.frames].to_vec();
        let (mut psnr, mut ssim, mut latent_error) = (Vec::new(), 0.0, 0.0);
        for (output, exact) in self.first.iter().zip(&baseline.first) {
            psnr.push(psnr_of_samples(
                output.first_samples(),
                exact.first_samples(),
            )?);
            ssim += video_ssim(&video(output), &video(exact))?;
            latent_error += relative_error(&output.latents, &exact.latents)?;
        }
        let count = psnr.len() as f64;
        let calls = baseline.run.plan.calls as f64 / self.run.plan.calls as f64;
        Ok(Row {
            kind: self.kind.clone(),
            ranks: self.run.plan.ranks.len(),
            steps: self.run.shape.steps,
            time: self.time(),
            speed_up: baseline.time().as_secs_f64() / self.time().as_secs_f64(),
            ideal_speed_up: calls * self.run.summary.ideal_speed_up,
            psnr: psnr.iter().sum::<f64>() / count,
            worst_psnr: psnr.iter().copied().fold(f64::INFINITY, f64::min),
            ssim: ssim / count,
            latent_error: latent_error / count,
            sound: self.sound,
            frames: self.first.first().map(video).unwrap_or_default(),
        })
    }
}
