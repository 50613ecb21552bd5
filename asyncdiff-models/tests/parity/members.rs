//! Ranks that share nothing but a network against ranks that are threads of one session, on every kind of model.

use std::net::TcpListener;
use std::sync::Arc;
use std::thread;

use asyncdiff_comm::launch::{Launcher, Place, Rendezvous};
use asyncdiff_comm::network::{Secret, connect};
use asyncdiff_core::plan::AsyncDiff;
use asyncdiff_models::device::workers;
use asyncdiff_models::{
    Content, Member, PartitionChoice, Run, Session, Spread, StableDiffusion, Strategy,
};

use super::fixtures::models;
use super::guidance_split::{masks, request};
use super::image_to_video;

/// The latents that members make one after another of several contents.
fn by_members(pipeline: &Arc<StableDiffusion>, run: &Run, contents: &[Content]) -> Vec<Vec<f32>> {
    let world_size = run.plan.ranks.len();
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let secret = Secret::random().unwrap();
    let workers = workers(&format!("cpu:{world_size}"), None).unwrap();
    thread::scope(|scope| {
        let members: Vec<_> = workers
            .into_iter()
            .enumerate()
            .map(|(rank, worker)| {
                let secret = Some(secret.clone());
                let place = Place {
                    rank,
                    world_size,
                    local_rank: rank,
                    local_world_size: world_size,
                    rendezvous: Rendezvous::loopback(port),
                    job: String::new(),
                    launcher: Launcher::Hand,
                };
                scope.spawn(move || {
                    let peers = connect(&run.joining(&place, secret)).unwrap();
                    let mut member = Member::join(pipeline, worker, run, peers).unwrap();
                    if rank > 0 {
                        member.serve(run).unwrap();
                        return Vec::new();
                    }
                    let made = contents
                        .iter()
                        .map(|content| member.generate(run, content, &mut ()).unwrap().latents)
                        .collect();
                    member.finish().unwrap();
                    made
                })
            })
            .collect();
        let mut made = members.into_iter().map(|member| member.join().unwrap());
        let first = made.next().unwrap();
        assert!(made.all(|other| other.is_empty()));
        first
    })
}

#[test]
fn members_make_what_a_session_makes() {
    for model in models() {
        let pipeline = &model.pipeline;
        for mask in masks(pipeline) {
            let small = pipeline
                .image_encoder()
                .map(|_| image_to_video::small_request(&model));
            let mut request = request(pipeline, small, mask);
            // A warm-up of three calls, and one or more behind it.
            request.shape.steps = 5;
            let mut another = request.content.clone();
            another.seed += 1;
            if pipeline.text_encoders().is_some() {
                another.prompt += ", in the snow";
            }
            let contents = [request.content, another];
            for strategy in [
                Strategy::from(Spread::Whole).split(),
                Strategy::from(Spread::segments(2)),
            ] {
                let run = pipeline.plan(&request.shape, &strategy).unwrap();
                let ranks = run.plan.ranks.len();
                let workers = workers(&format!("cpu:{ranks}"), None).unwrap();
                let mut session = Session::new(pipeline, workers).unwrap();
                let expected: Vec<_> = contents
                    .iter()
                    .map(|content| session.generate(&run, content, &mut ()).unwrap().latents)
                    .collect();
                let found = by_members(pipeline, &run, &contents);
                assert!(
                    found == expected,
                    "{}, mask: {mask}, {strategy}",
                    model.name
                );
            }
        }
    }
}

#[test]
fn the_first_process_leads_whichever_rank_advances_the_latents() {
    for model in models().into_iter().take(1) {
        let pipeline = &model.pipeline;
        let request = request(pipeline, None, false);
        // The last block's segment first: the latents are with the other one.
        let graph = pipeline
            .plan(&request.shape, &Strategy::sequential())
            .unwrap()
            .graph;
        let half = graph.blocks.len() / 2;
        let map = graph.blocks.iter().enumerate();
        let map = map.map(|(index, block)| (block.name.clone(), usize::from(index < half)));
        let strategy = Strategy::from(Spread::AsyncDiff {
            partition: PartitionChoice::Map(map.collect()),
            parameters: AsyncDiff::default(),
        });
        let run = pipeline.plan(&request.shape, &strategy).unwrap();
        assert_eq!(run.plan.latents_rank, 1);
        let mut session = Session::new(pipeline, workers("cpu:2", None).unwrap()).unwrap();
        let expected = session.generate(&run, &request.content, &mut ()).unwrap();
        let found = by_members(pipeline, &run, &[request.content]);
        assert!(found == [expected.latents]);
    }
}
