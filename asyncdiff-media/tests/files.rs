//! Where files go: through links, not into devices, and what killed runs have left.
#![cfg(unix)]

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use asyncdiff_media::{picture, video};
use asyncdiff_models::image::Image;

fn image() -> Image {
    Image {
        width: 2,
        height: 2,
        rgb: vec![200; 12],
    }
}

fn names(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_symlink_as_output_is_written_through_and_stays_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::create_dir(path("elsewhere")).unwrap();
    fs::write(path("elsewhere/old.png"), "old").unwrap();
    // To a file, to a link to it, to nothing so far.
    symlink("elsewhere/old.png", path("a.png")).unwrap();
    symlink(path("a.png"), path("b.png")).unwrap();
    symlink("elsewhere/new.png", path("c.png")).unwrap();
    for name in ["a.png", "b.png", "c.png"] {
        picture::check_path(&path(name)).unwrap();
        picture::write(&path(name), &image(), "").unwrap();
        assert!(fs::symlink_metadata(path(name)).unwrap().is_symlink());
        assert_eq!(picture::read(&path(name)).unwrap(), image());
    }
    assert_eq!(names(&path("elsewhere")), ["new.png", "old.png"]);
    symlink("d.png", path("d.png")).unwrap();
    let circle = picture::check_path(&path("d.png")).unwrap_err().to_string();
    assert!(circle.contains("leads to itself"), "{circle}");
    symlink("missing/e.png", path("e.png")).unwrap();
    let missing = picture::check_path(&path("e.png")).unwrap_err().to_string();
    assert!(missing.contains("does not exist"), "{missing}");
}

#[test]
fn what_is_no_file_is_refused_as_output_by_its_kind() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let made = Command::new("mkfifo").arg(path("pipe.png")).status();
    assert!(made.unwrap().success());
    symlink("/dev/null", path("null.png")).unwrap();
    for (name, kind) in [("pipe.png", "a named pipe"), ("null.png", "a device")] {
        for error in [
            picture::check_path(&path(name)).unwrap_err(),
            picture::write(&path(name), &image(), "").unwrap_err(),
        ] {
            assert!(error.to_string().contains(kind), "{error}");
        }
    }
    assert_eq!(names(folder.path()), ["null.png", "pipe.png"]);
}

#[test]
fn what_is_no_file_is_refused_as_input_by_its_kind() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    let inputs: [(PathBuf, &str); 3] = [
        (pipe, "a named pipe"),
        ("/dev/zero".into(), "a device"),
        (folder.path().to_owned(), "a folder"),
    ];
    for (path, kind) in inputs {
        let error = picture::read(&path).unwrap_err().to_string();
        assert!(error.contains(kind), "{error}");
        let error = picture::read_mask(&path).unwrap_err().to_string();
        assert!(error.contains(kind), "{error}");
    }
}

#[test]
fn what_a_killed_run_has_left_is_removed_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    // A process that is gone.
    let mut child = Command::new("true").spawn().unwrap();
    let gone = child.id();
    child.wait().unwrap();
    let here = std::process::id();
    fs::write(path(&format!(".asyncdiff-{gone}-0.tmp")), "half").unwrap();
    fs::create_dir(path(&format!(".asyncdiff-{gone}-1.tmp"))).unwrap();
    fs::write(
        path(&format!(".asyncdiff-{gone}-1.tmp/frame-0000.png")),
        "half",
    )
    .unwrap();
    let mut kept = vec![
        // Of a process that runs; of another program; of another kind.
        format!(".asyncdiff-{here}-7.tmp"),
        format!(".asyncdiff-{gone}-0.png"),
        format!(".asyncdiff-{gone}.tmp"),
        "frame.tmp".to_owned(),
        // Of another machine that writes it now.
        format!(".asyncdiff-{gone}-2.tmp"),
    ];
    for name in &kept {
        fs::write(path(name), "theirs").unwrap();
    }
    let link = format!(".asyncdiff-{gone}-3.tmp");
    symlink("frame.tmp", path(&link)).unwrap();
    kept.push(link);
    let held = File::open(path(&format!(".asyncdiff-{gone}-2.tmp"))).unwrap();
    held.lock().unwrap();
    video::check_path(&path("x.gif")).unwrap();
    kept.sort();
    assert_eq!(names(folder.path()), kept);
}
