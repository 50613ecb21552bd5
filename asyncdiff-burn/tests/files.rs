//! Files that were named by somebody.

use std::fs;
use std::io::ErrorKind;

use asyncdiff_burn::files::{open, read};

#[test]
fn what_cannot_be_read_is_told_with_a_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    let missing = open(&path).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    assert_eq!(missing.to_string(), "there is no such file, check its name");
    fs::write(&path, "four").unwrap();
    assert_eq!(read(&path, 4).unwrap(), b"four");
    let large = read(&path, 3).unwrap_err().to_string();
    assert!(large.ends_with("may have, give another"), "{large}");
    for (name, remedy) in [
        (".", "give a file"),
        ("file/inside", "give another file"),
        (&"long".repeat(200), "give another file"),
    ] {
        let error = open(&folder.path().join(name)).unwrap_err().to_string();
        assert!(error.ends_with(remedy), "{name}: {error}");
    }
}
