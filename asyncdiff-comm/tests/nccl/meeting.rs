//! How ranks come to communicators, or to know that there are none.

use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use asyncdiff_comm::nccl::{Join, NcclApi, NcclError, NcclPeer, UniqueId, meet};
use asyncdiff_comm::{CommError, Element, Form, PeerExchange, Transfer, agree, local};

use super::fake::{Fake, failure, fakes};
use super::{Buffer, LONG};

/// Makes a rank's communicator, once, if it is told the id that rank 0 has made.
struct Joins {
    fake: Mutex<Option<Fake>>,
    fails: bool,
}

const ID: [u8; 128] = [7; 128];

impl Join for Joins {
    type Api = Fake;

    fn unique_id(&self) -> Result<UniqueId, NcclError> {
        Ok(UniqueId::of_bytes(&ID).unwrap())
    }

    fn join(&self, _: (usize, usize), id: &UniqueId, _: Duration) -> Result<Fake, NcclError> {
        assert_eq!(id.bytes(), ID);
        match self.fails {
            true => Err(failure("no way to the others")),
            false => Ok(self.fake.lock().unwrap().take().unwrap()),
        }
    }
}

/// What each of the ranks gets that come with `own`, and whether a communicator was aborted.
fn meeting(own: Vec<Result<bool, &str>>) -> (Vec<Result<Fake, String>>, bool) {
    let ranks = own.len();
    // One more, to look at.
    let mut fakes = fakes(ranks + 1);
    let mut last = fakes.pop().unwrap();
    let made = thread::scope(|scope| {
        let threads: Vec<_> = fakes
            .into_iter()
            .zip(local::world::<Vec<u8>>(ranks))
            .zip(own)
            .map(|((fake, mut peers), own)| {
                let fake = Mutex::new(Some(fake));
                let own = own.map(|fails| Joins { fake, fails });
                let own = own.map_err(ToOwned::to_owned);
                scope.spawn(move || meet(&mut peers, ranks, 3, own, LONG).unwrap())
            })
            .collect();
        let ended = threads.into_iter().map(|thread| thread.join().unwrap());
        ended.collect()
    });
    (made, last.passed(&0).is_err())
}

#[test]
fn ranks_that_all_can_get_communicators_that_reach_each_other() {
    let (made, aborted) = meeting(vec![Ok(false); 3]);
    assert!(!aborted);
    let form = Form::new([4], Element::U8);
    let transfers = [Transfer {
        from: 2,
        to: 1,
        tag: 9,
        form: form.clone(),
    }];
    let mut ranks: Vec<_> = made
        .into_iter()
        .map(Result::unwrap)
        .zip(local::world::<Vec<u8>>(3))
        .map(|(fake, control)| {
            let empty = |form: &Form| Buffer(vec![0; form.bytes().unwrap()].into());
            NcclPeer::new(fake, control, &transfers, Box::new(empty))
        })
        .collect();
    ranks[2].send(1, 9, Buffer([1, 2, 3, 4].into())).unwrap();
    assert_eq!(*ranks[1].recv(2, 9, &form, LONG).unwrap().0, [1, 2, 3, 4]);
}

#[test]
fn if_one_rank_cannot_none_does_and_all_know_why() {
    for cannot in 0..3 {
        let mut own = vec![Ok(false); 3];
        own[cannot] = Err("libnccl.so.2 cannot be loaded");
        let (made, aborted) = meeting(own);
        assert!(!aborted);
        for made in made {
            assert_eq!(made.err().unwrap(), "libnccl.so.2 cannot be loaded");
        }
    }
}

#[test]
fn if_one_rank_fails_to_join_the_others_abort_theirs() {
    for fails in 0..3 {
        let mut own = vec![Ok(false); 3];
        own[fails] = Ok(true);
        let (made, aborted) = meeting(own);
        assert!(aborted);
        for made in made {
            let reason = made.err().unwrap();
            assert!(reason.contains("no way to the others"), "{reason}");
        }
    }
}

#[test]
fn ranks_of_programs_without_nccl_take_part() {
    let mut world = local::world::<Vec<u8>>(2);
    let (mut without, mut with) = (world.pop().unwrap(), world.pop().unwrap());
    let own = Joins {
        fake: Mutex::new(fakes(2).pop()),
        fails: false,
    };
    let other = thread::spawn(move || {
        let own = Err("built without NCCL".to_owned());
        agree(&mut without, 2, 3, own, LONG).unwrap().err()
    });
    let made = meet(&mut with, 2, 3, Ok(own), LONG).unwrap();
    assert_eq!(made.err().unwrap(), "built without NCCL");
    assert_eq!(other.join().unwrap().unwrap(), "built without NCCL");
}

#[test]
fn long_reasons_are_cut_and_strange_answers_refused() {
    let mut world = local::world::<Vec<u8>>(2);
    let (mut second, mut first) = (world.pop().unwrap(), world.pop().unwrap());
    let other = thread::spawn(move || {
        let reason = agree(&mut second, 2, 0, Err("x".repeat(9999)), LONG);
        second.send(0, 0, vec![9; 512]).unwrap();
        reason.unwrap().err().unwrap()
    });
    let own = Ok(Vec::new());
    let found = agree(&mut first, 2, 0, own.clone(), LONG).unwrap();
    let reason = other.join().unwrap();
    assert_eq!(found, Err(reason.clone()));
    assert!(reason.len() > 400 && reason.len() < 512, "{}", reason.len());
    let error = agree(&mut first, 2, 0, own, LONG).unwrap_err();
    assert!(
        matches!(error, CommError::PeerFailed { rank: 1, .. }),
        "{error}"
    );
}
