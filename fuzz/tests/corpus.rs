//! Every input of the corpus, and every beginning of it, through its target.

use std::{fs, path::Path};

use guildhall_fuzz::TARGETS;

/// Inputs are cut at this many places.
const CUTS: usize = 64;

#[test]
fn the_corpus_keeps_the_rules() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (name, target) in TARGETS {
        let mut inputs = 0;
        for entry in fs::read_dir(corpus.join(name)).expect(name) {
            let bytes = fs::read(entry.unwrap().path()).unwrap();
            target(&bytes);
            for cut in 0..CUTS {
                target(&bytes[..bytes.len() * cut / CUTS]);
            }
            inputs += 1;
        }
        assert!(inputs > 0, "no corpus of {name}");
    }
}

#[test]
fn every_folder_has_its_target() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for entry in fs::read_dir(corpus).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(guildhall_fuzz::target(&name).is_some(), "{name}");
    }
}
