//! A file is written whole or not at all.

mod common;

use std::path::Path;
use std::process::Command;

use bertha_engine::{EngineFile, EngineWriter, Fault};
use common::{pattern, small_engine, write_small};

fn names_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_dropped_writer_leaves_the_old_file_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.bertha");
    std::fs::write(&path, small_engine().bytes()).unwrap();
    let old = EngineFile::open(&path).unwrap();

    let mut writer = EngineWriter::create(&path).unwrap();
    writer.graph("another graph").unwrap();
    assert_eq!(names_in(folder.path()).len(), 2, "the temporary file lies beside it");
    drop(writer);

    assert_eq!(names_in(folder.path()), ["model.bertha"]);
    assert_eq!(std::fs::read(&path).unwrap(), old.bytes());
}

#[test]
fn a_failed_finish_leaves_the_old_file_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.bertha");
    std::fs::write(&path, b"old").unwrap();
    let mut writer = EngineWriter::create(&path).unwrap();
    writer.graph("a file without metadata").unwrap();
    let error = writer.finish().unwrap_err();
    assert!(matches!(error.fault, Fault::MissingSection { .. }), "{error}");
    assert!(error.file.ends_with("model.bertha"), "{error}");
    assert_eq!(names_in(folder.path()), ["model.bertha"]);
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
}

#[test]
fn a_failed_rename_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.bertha");
    std::fs::create_dir(&path).unwrap();
    std::fs::write(path.join("inside"), b"x").unwrap();
    let mut writer = EngineWriter::create(&path).unwrap();
    write_small(&mut writer);
    let error = writer.finish().unwrap_err();
    assert!(error.to_string().contains("cannot rename"), "{error}");
    assert_eq!(names_in(folder.path()), ["model.bertha"]);
    assert_eq!(names_in(&path), ["inside"]);
}

#[test]
fn a_folder_that_does_not_exist_is_an_error_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let error = EngineWriter::create(folder.path().join("none/model.bertha")).err().unwrap();
    assert!(error.to_string().contains("none/model.bertha"), "{error}");
}

#[test]
fn a_new_file_replaces_an_old_one_that_stays_readable_while_mapped() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.bertha");
    std::fs::write(&path, small_engine().bytes()).unwrap();
    let old = EngineFile::open(&path).unwrap();
    let mut writer = EngineWriter::create(&path).unwrap();
    writer.metadata(&small_engine().metadata().clone()).unwrap();
    let new = writer.finish().unwrap();
    assert_eq!(names_in(folder.path()), ["model.bertha"]);
    assert!(new.tensors().is_empty());
    old.verify().unwrap();
    assert_eq!(old.tensor("embeddings").unwrap(), pattern(48));
}

/// Set for the process that is to die in the middle of writing.
const VICTIM: &str = "BERTHA_TEST_ABORT_WHILE_WRITING";

#[test]
fn a_killed_process_leaves_the_old_file() {
    if let Ok(path) = std::env::var(VICTIM) {
        let mut writer = EngineWriter::create(path).unwrap();
        write_small(&mut writer);
        std::process::abort();
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.bertha");
    std::fs::write(&path, small_engine().bytes()).unwrap();
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_killed_process_leaves_the_old_file"])
        .env(VICTIM, &path)
        .output()
        .unwrap()
        .status;
    assert!(!status.success());
    EngineFile::open(&path).unwrap().verify().unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), small_engine().bytes());
}

#[cfg(unix)]
#[test]
fn the_file_has_the_permissions_of_any_new_file() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let plain = folder.path().join("plain");
    std::fs::write(&plain, b"").unwrap();
    let path = folder.path().join("model.bertha");
    let mut writer = EngineWriter::create(&path).unwrap();
    write_small(&mut writer);
    writer.finish().unwrap();
    let mode = |path| std::fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(path), mode(plain));
}

#[test]
fn mistakes_while_writing_are_errors() {
    let mut writer = EngineWriter::in_memory();
    write_small(&mut writer);
    let fault = |result: Result<(), bertha_engine::EngineError>| result.unwrap_err().fault;
    assert!(matches!(fault(writer.graph("again")), Fault::Duplicate { .. }));
    assert!(matches!(fault(writer.section("Wrong Name", b"")), Fault::InvalidName { .. }));
    assert!(matches!(fault(writer.section(&"n".repeat(49), b"")), Fault::InvalidName { .. }));
    let header = common::plan_header("no/target");
    assert!(matches!(fault(writer.plan(&header, b"")), Fault::InvalidName { .. }));
    writer.finish().unwrap().verify().unwrap();

    let mut writer = EngineWriter::in_memory();
    let mut weights = writer.begin_weights().unwrap();
    weights.tensor("t", "f32", &[1], &[0; 4]).unwrap();
    assert!(matches!(fault(weights.tensor("t", "f32", &[1], &[0; 4])), Fault::Duplicate { .. }));
    assert!(matches!(fault(weights.tensor("", "f32", &[1], &[0; 4])), Fault::InvalidName { .. }));
    assert!(matches!(fault(weights.tensor("u", "f32", &[2], &[0; 4])), Fault::BadTensor { .. }));
    assert!(matches!(fault(weights.tensor("u", "int4", &[2], &[0; 4])), Fault::BadTensor { .. }));
    drop(weights);
    assert!(matches!(fault(writer.graph("text")), Fault::Unfinished { .. }));
    assert!(matches!(writer.finish().unwrap_err().fault, Fault::Unfinished { .. }));
}
