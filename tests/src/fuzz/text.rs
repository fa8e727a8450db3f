//! Texts that people and programs write.

use director_userspace::{
    inspect::trace::{Filter, FlowSpec},
    migrate::import::{self, Effect, ImportErrors, Imported, Names, Options},
    policy::config,
};

use super::Outcome;

/// A configuration: it is valid, or has errors with places in it; both readers of YAML agree.
pub(super) fn config(input: &[u8]) -> Outcome {
    let Ok(text) = std::str::from_utf8(input) else { return 0 };
    if let Some([plain, all]) = config::fuzz::both_readers(text) {
        assert_eq!(plain, all, "the readers of YAML differ");
    }
    match config::parse("fuzz", text) {
        Ok(loaded) => {
            // What is shown of it can be shown.
            let _ = serde_json::to_string(&loaded.config).expect("a configuration is JSON");
            loaded.warnings.iter().for_each(|warning| drop(warning.to_string()));
            1
        }
        Err(errors) => {
            assert!(!errors.errors.is_empty(), "refused without an error");
            let _ = errors.to_string();
            // CR ends a line, too (YAML 1.2, 5.4).
            let lines = text.replace("\r\n", "\n").split(['\n', '\r']).count();
            for error in &errors.errors {
                let line = error.position.map_or(1, |at| at.line as usize);
                assert!((1..=lines + 1).contains(&line), "line {line} of {lines}: {error:?}");
            }
            // Short texts are also what a filter or a flow may be.
            if text.len() < 200 {
                let _ = text.parse::<Filter>().map_err(|error| error.to_string());
                if let Ok(flow) = text.parse::<FlowSpec>() {
                    assert_eq!(flow.to_string().parse(), Ok(flow), "a flow reads as it is shown");
                }
            }
            2
        }
    }
}

/// Rules and listings of ipvsadm.
pub(super) fn ipvsadm(input: &[u8]) -> Outcome {
    imported(input, import::ipvsadm("fuzz", input, &Names::default(), &Options::default()))
}

/// A configuration of keepalived.
pub(super) fn keepalived(input: &[u8]) -> Outcome {
    let lossy = Options { lossy: input.len() % 2 == 1, ..Options::default() };
    imported(input, import::keepalived("fuzz", input, &lossy))
}

/// What is imported is valid, and errors name lines of the source.
fn imported(input: &[u8], result: Result<Imported, ImportErrors>) -> Outcome {
    match result {
        Ok(imported) => {
            if let Err(errors) = config::parse("import", &imported.yaml) {
                panic!("the import is invalid: {errors}\n{}", imported.yaml);
            }
            let changed = imported.report.notes.iter().any(|note| note.effect == Effect::Changed);
            if changed { 1 } else { 2 }
        }
        Err(errors) => {
            assert!(!errors.errors.is_empty(), "refused without an error");
            let text = errors.to_string();
            assert!(!text.contains("a bug of Director"), "{text}");
            let lines = input.split(|byte| *byte == b'\n').count();
            for error in &errors.errors {
                let line = error.line.unwrap_or(1) as usize;
                assert!((1..=lines).contains(&line), "line {line} of {lines}: {text}");
            }
            3
        }
    }
}
