//! Places, from environments that were recorded from the launchers themselves (`environments/`, each of the second of two
//! ranks: `env` was what they started), and from what is typed. Ports made of a job's name were computed with another program.

use std::collections::HashMap;

use asyncdiff_comm::launch::{
    Environment, LaunchError, Launcher, Place, Rendezvous, Settings, place,
};

fn recorded(name: &str) -> Environment {
    let path = format!("{}/tests/environments/{name}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    text.lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

fn of(pairs: &[(&str, &str)]) -> Environment {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn placed(environment: &Environment) -> Place {
    place(&Settings::default(), environment).unwrap().unwrap()
}

fn check(name: &str, launcher: Launcher, rendezvous: &str) -> Place {
    let place = placed(&recorded(name));
    let numbers = (
        place.rank,
        place.world_size,
        place.local_rank,
        place.local_world_size,
    );
    assert_eq!(numbers, (1, 2, 1, 2), "{name}");
    assert_eq!(place.launcher, launcher, "{name}");
    assert_eq!(place.rendezvous.to_string(), rendezvous, "{name}");
    place
}

#[test]
fn torchrun_on_one_host() {
    // The host's name is "localhost" here, and whatever the network calls it elsewhere: never needed. 40667 is the agent's.
    let place = check(
        "torchrun-standalone.env",
        Launcher::Torch,
        "127.0.0.1:40668",
    );
    assert_eq!(place.job, "d1800e2e-7a1c-4102-b4ee-093574c0a4c7");
}

#[test]
fn torchrun_on_two_hosts() {
    let place = placed(&recorded("torchrun-two-hosts.env"));
    let numbers = (place.rank, place.world_size, place.local_rank);
    assert_eq!(numbers, (1, 2, 0));
    assert_eq!(place.local_world_size, 1);
    assert_eq!(place.rendezvous.to_string(), "192.0.2.2:29531");
}

#[test]
fn others_who_set_the_variables_of_torch_keep_no_store() {
    let environment = of(&[
        ("RANK", "0"),
        ("WORLD_SIZE", "4"),
        ("MASTER_ADDR", "job-master-0"),
        ("MASTER_PORT", "23456"),
    ]);
    let rendezvous = placed(&environment).rendezvous;
    assert_eq!(rendezvous.to_string(), "job-master-0:23456");
}

#[test]
fn open_mpi() {
    let four = check("openmpi-4.env", Launcher::OpenMpi, "127.0.0.1:22151");
    let five = check("openmpi-5.env", Launcher::OpenMpi, "127.0.0.1:22282");
    assert_eq!(four.job, "1571553281");
    assert_eq!(five.job, "prterun-vm-12813@1");
}

#[test]
fn open_mpi_on_several_hosts_needs_a_rendezvous() {
    let mut environment = recorded("openmpi-5.env");
    environment.insert("OMPI_COMM_WORLD_LOCAL_SIZE".to_owned(), "1".to_owned());
    let error = place(&Settings::default(), &environment).unwrap_err();
    assert_eq!(
        error,
        LaunchError::NoRendezvous {
            launcher: Launcher::OpenMpi
        }
    );
    environment.insert("ASYNCDIFF_RENDEZVOUS".to_owned(), "node1:29500".to_owned());
    assert_eq!(placed(&environment).rendezvous.host, "node1");
}

#[test]
fn mpich() {
    check("mpich.env", Launcher::Pmi, "127.0.0.1:29500");
}

#[test]
fn slurm() {
    let place = check("srun.env", Launcher::Slurm, "127.0.0.1:28290");
    assert_eq!(place.job, "1.0");
    let mut environment = recorded("srun.env");
    for (name, value) in [
        ("SLURM_STEP_NUM_NODES", "2"),
        ("SLURM_STEP_NODELIST", "gpu[07-08]"),
    ] {
        environment.insert(name.to_owned(), value.to_owned());
    }
    assert_eq!(placed(&environment).rendezvous.host, "gpu07");
    // With `--mpi=pmi2`.
    environment.insert("PMI_RANK".to_owned(), "1".to_owned());
    environment.insert("PMI_SIZE".to_owned(), "2".to_owned());
    assert_eq!(placed(&environment).launcher, Launcher::Slurm);
    // MPICH's `mpirun` starts a step of one task on each host, and in it its own ranks.
    environment.insert("PMI_RANK".to_owned(), "3".to_owned());
    environment.insert("PMI_SIZE".to_owned(), "8".to_owned());
    environment.insert("ASYNCDIFF_RENDEZVOUS".to_owned(), "gpu07:1".to_owned());
    let place = placed(&environment);
    assert_eq!((place.rank, place.launcher), (3, Launcher::Pmi));
}

#[test]
fn the_script_of_a_batch_job_is_alone() {
    let environment = recorded("sbatch-script.env");
    assert_eq!(environment["SLURM_PROCID"], "0");
    assert_eq!(environment["SLURM_NTASKS"], "2");
    assert_eq!(place(&Settings::default(), &environment), Ok(None));
}

#[test]
fn kubernetes() {
    // As the documentation of indexed Jobs has it; the other two are in the Job's manifest.
    let mut environment = of(&[("JOB_COMPLETION_INDEX", "1"), ("HOSTNAME", "pictures-1")]);
    assert_eq!(place(&Settings::default(), &environment), Ok(None));
    environment.insert("ASYNCDIFF_WORLD_SIZE".to_owned(), "2".to_owned());
    assert_eq!(
        place(&Settings::default(), &environment),
        Err(LaunchError::NoRendezvous {
            launcher: Launcher::Kubernetes
        })
    );
    environment.insert(
        "ASYNCDIFF_RENDEZVOUS".to_owned(),
        "pictures-0.pictures:29500".to_owned(),
    );
    let place = placed(&environment);
    assert_eq!(place.launcher, Launcher::Kubernetes);
    assert_eq!((place.rank, place.world_size, place.local_rank), (1, 2, 0));
    assert_eq!(place.rendezvous.to_string(), "pictures-0.pictures:29500");
}

#[test]
fn by_hand() {
    let settings = Settings {
        rank: Some(0),
        world_size: Some(2),
        local_rank: None,
        rendezvous: Some("[::1]:29500".parse().unwrap()),
    };
    let alone = HashMap::new();
    let by_settings = place(&settings, &alone).unwrap().unwrap();
    let environment = of(&[
        ("ASYNCDIFF_RANK", "0"),
        ("ASYNCDIFF_WORLD_SIZE", "2"),
        ("ASYNCDIFF_RENDEZVOUS", "[::1]:29500"),
    ]);
    assert_eq!(by_settings, placed(&environment));
    assert_eq!(by_settings.launcher, Launcher::Hand);
    assert_eq!(by_settings.rendezvous.to_string(), "[::1]:29500");
    assert_eq!(by_settings.rendezvous.host, "::1");
}

#[test]
fn what_is_typed_comes_first_then_our_own_variables() {
    let mut environment = recorded("torchrun-standalone.env");
    environment.insert("ASYNCDIFF_LOCAL_RANK".to_owned(), "5".to_owned());
    environment.insert("ASYNCDIFF_WORLD_SIZE".to_owned(), "3".to_owned());
    let settings = Settings {
        world_size: Some(4),
        rendezvous: Some(Rendezvous::loopback(29500)),
        ..Settings::default()
    };
    let place = place(&settings, &environment).unwrap().unwrap();
    assert_eq!((place.rank, place.world_size, place.local_rank), (1, 4, 5));
    assert_eq!(place.rendezvous.port, 29500);
}

#[test]
fn a_process_without_others_is_alone() {
    for environment in [
        of(&[]),
        of(&[("RANK", "0"), ("WORLD_SIZE", "1")]),
        of(&[("WORLD_SIZE", "8")]),
        of(&[("OMPI_COMM_WORLD_RANK", "0"), ("OMPI_COMM_WORLD_SIZE", "1")]),
    ] {
        assert_eq!(place(&Settings::default(), &environment), Ok(None));
    }
}

#[test]
fn half_a_place_is_an_error_that_names_the_other_half() {
    for (environment, error) in [
        (
            of(&[("ASYNCDIFF_RANK", "1")]),
            "this process is a rank of several, but its number of ranks is not known: set ASYNCDIFF_WORLD_SIZE",
        ),
        (
            of(&[("ASYNCDIFF_WORLD_SIZE", "2")]),
            "this process is a rank of several, but its rank is not known: set ASYNCDIFF_RANK",
        ),
        (
            of(&[("ASYNCDIFF_RANK", "1"), ("ASYNCDIFF_WORLD_SIZE", "2")]),
            "this process is a rank of several, but its rendezvous is not known: set ASYNCDIFF_RENDEZVOUS",
        ),
        (
            of(&[("ASYNCDIFF_RANK", "2"), ("ASYNCDIFF_WORLD_SIZE", "2")]),
            "rank 2 does not exist: this run has 2 ranks, numbered from 0",
        ),
        (
            of(&[("ASYNCDIFF_RANK", "one")]),
            "ASYNCDIFF_RANK is one, which is no number",
        ),
        (
            of(&[("RANK", "1"), ("WORLD_SIZE", "2"), ("MASTER_PORT", "70000")]),
            "MASTER_PORT is 70000, which is no number",
        ),
    ] {
        let found = place(&Settings::default(), &environment).unwrap_err();
        assert_eq!(found.to_string(), error);
    }
}

#[test]
fn a_rendezvous_is_a_host_and_a_port() {
    for text in [
        "",
        "host",
        "host:",
        ":29500",
        "host:0",
        "host:70000",
        "::1:29500",
        "[::1]",
        "[::1:29500",
    ] {
        assert!(text.parse::<Rendezvous>().is_err(), "{text}");
    }
}
