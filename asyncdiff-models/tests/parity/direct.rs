//! Ranks whose messages go from memory to memory in one order, under NCCL's rules, against ranks that are threads of one session.

#[path = "../../../asyncdiff-comm/tests/nccl/fake.rs"]
mod fake;

use std::ffi::c_void;
use std::slice::from_ref;
use std::sync::Arc;

use asyncdiff_burn::exchange::{Buffer, Direct, Parcel, element};
use asyncdiff_burn::ranks::on_each;
use asyncdiff_comm::nccl::{DeviceBuffer, NcclPeer};
use asyncdiff_comm::{Element, Form, local};
use asyncdiff_models::device::workers;
use asyncdiff_models::{
    Content, Lead, Parts, Rank, Run, Session, Spread, StableDiffusion, Strategy,
};
use burn::tensor::{DType, Device, Tensor, TensorData};

use super::fixtures::models;
use super::guidance_split::request;

/// A tensor in the memory of what stands for a GPU.
struct HostTensor {
    form: Form,
    bytes: Vec<u8>,
    device: Device,
}

impl Buffer<4> for HostTensor {
    fn of(tensor: Tensor<4>) -> Self {
        Self {
            form: Form::new(tensor.dims(), element(tensor.dtype())),
            device: tensor.device(),
            bytes: tensor.into_data().as_bytes().to_vec(),
        }
    }

    fn empty(form: &Form, device: &Device) -> Self {
        Self {
            form: form.clone(),
            bytes: vec![0xff; form.bytes().unwrap()],
            device: device.clone(),
        }
    }

    fn into_tensor(self) -> Tensor<4> {
        assert_eq!(self.form.element, Element::F32);
        let data = TensorData::from_bytes_vec(self.bytes, self.form.shape, DType::F32);
        Tensor::from_data(data, &self.device)
    }
}

// SAFETY: the bytes are the vector's own, and as many as the form says.
unsafe impl DeviceBuffer for HostTensor {
    fn form(&self) -> Form {
        self.form.clone()
    }

    fn pointer(&mut self) -> *mut c_void {
        self.bytes.as_mut_ptr().cast()
    }
}

/// The final latents of `run`.
fn from_memory_to_memory(
    pipeline: &Arc<StableDiffusion>,
    run: &Run,
    content: &Content,
) -> Vec<f32> {
    let ranks = run.plan.ranks.len();
    let workers = workers(&format!("cpu:{ranks}"), None).unwrap();
    let parts = Parts::load(pipeline, workers[0].device()).unwrap();
    let mut conditioning = parts.encode(&run.shape, from_ref(content)).unwrap();
    let start = parts
        .start(run, from_ref(content), &mut conditioning)
        .unwrap();
    let ranks: Vec<_> = workers
        .into_iter()
        .enumerate()
        .map(|(seat, worker)| {
            let mut rank = Rank::new(pipeline, worker).unwrap();
            rank.prepare(run, seat).unwrap();
            rank
        })
        .collect();
    let mut progress = ();
    let mut lead = Some(Lead {
        start,
        progress: &mut progress,
    });
    let transfers = run.transfers();
    let states = fake::fakes(ranks.len())
        .into_iter()
        .zip(local::world::<Parcel<4>>(ranks.len()))
        .zip(&ranks)
        .enumerate()
        .map(|(seat, ((fake, control), rank))| {
            let device = rank.worker().device().clone();
            let memory = device.clone();
            let empty = move |form: &Form| HostTensor::empty(form, &memory);
            let peer = NcclPeer::new(fake, control, &transfers, Box::new(empty));
            let leads = seat == run.plan.latents_rank;
            let peer = Direct::<_, HostTensor>::new(peer, &device);
            (peer, lead.take_if(|_| leads))
        });
    let results = on_each(&ranks, states.collect(), |seat, (peer, lead)| {
        ranks[seat].run(run, seat, conditioning.clone(), lead, peer)
    });
    let latents = results.into_iter().find_map(Result::unwrap).unwrap();
    latents.into_data().try_to_vec().unwrap()
}

#[test]
fn every_way_to_spread_a_run_works_from_memory_to_memory() {
    let strategies = [
        Strategy::from(Spread::Whole).split(),
        Strategy::from(Spread::segments(2)),
        Strategy::from(Spread::segments(2)).split(),
        Strategy::from(Spread::ring()),
        Strategy::from(Spread::ring()).split(),
        Strategy::from(Spread::copies(2)).split(),
    ];
    for model in models().into_iter().take(2) {
        let pipeline = &model.pipeline;
        let mut request = request(pipeline, None, false);
        request.shape.steps = 6;
        for strategy in &strategies {
            let run = pipeline.plan(&request.shape, strategy).unwrap();
            assert!(!run.transfers().is_empty(), "{strategy}");
            let threads = workers(&format!("cpu:{}", run.plan.ranks.len()), None).unwrap();
            let mut session = Session::new(pipeline, threads).unwrap();
            let expected = session.generate(&run, &request.content, &mut ()).unwrap();
            let found = from_memory_to_memory(pipeline, &run, &request.content);
            assert!(found == expected.latents, "{}, {strategy}", model.name);
        }
    }
}
