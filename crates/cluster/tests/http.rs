//! Definitions and contract wallets over HTTP, answered well, badly, too long and not at all.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on shall end here"
)]

mod common;

use std::time::{Duration, Instant};

use common::{
    cluster,
    server::{Answer, Server},
};
use pluto_cluster::{
    Verifier, Version,
    eip712::erc1271_call,
    http::{ExecutionClient, FetchError, RpcError, fetch_definition},
    verify::ContractWallets,
};
use pluto_eth::address::Address;
use serde_json::{Value, json};

const WALLET: Address = Address([0x11; 20]);
const DIGEST: [u8; 32] = [0x22; 32];
const SIGNATURE: [u8; 130] = [0x33; 130];
/// How long a silent client is waited for here.
const SHORT: Duration = Duration::from_millis(300);

fn result(result: &Value) -> Answer {
    let answer = json!({"jsonrpc": "2.0", "id": 1, "result": result});
    Answer::Body(200, answer.to_string().into())
}

/// An `isValidSignature` answer: four bytes in a word.
fn word(start: &str) -> Value {
    format!("0x{start}{}", "0".repeat(64 - start.len())).into()
}

fn client(server: &Server) -> ExecutionClient {
    let client = ExecutionClient::new(&server.url).unwrap();
    client.with_timeout(SHORT)
}

fn ask(server: &Server) -> Result<bool, RpcError> {
    let answer = client(server).accepts(&WALLET, &DIGEST, &SIGNATURE);
    answer.map_err(|error| *error.0.downcast().unwrap())
}

#[test]
fn a_contract_is_asked_by_eth_call_and_its_answer_counts() {
    let yes = Server::start(result(&word("1626ba7e")));
    assert!(ask(&yes).unwrap());
    let question: Value = serde_json::from_str(&yes.question()).unwrap();
    assert_eq!(question["method"], "eth_call");
    assert_eq!(question["params"][1], "latest");
    let call = &question["params"][0];
    assert_eq!(call["to"], format!("0x{}", "11".repeat(20)));
    let data = hex::encode(erc1271_call(&DIGEST, &SIGNATURE));
    assert_eq!(call["data"], format!("0x{data}"));

    for no in ["ffffffff", "1626ba7f", "00000000"] {
        assert!(!ask(&Server::start(result(&word(no)))).unwrap(), "{no}");
    }
}

#[test]
fn what_is_no_answer_is_never_taken_for_one() {
    let Answer::Body(_, yes) = result(&word("1626ba7e")) else {
        panic!("no body");
    };
    for (answer, told) in [
        (result(&"0x".into()), "no contract"),
        (result(&"0x1626ba7e".into()), "is it an execution client"),
        (result(&"1626ba7e".into()), "is it an execution client"),
        (result(&"0x1626ba7".into()), "is it an execution client"),
        (result(&true.into()), "is it an execution client"),
        (result(&Value::Null), "is it an execution client"),
        (Answer::Body(200, b"<html>".to_vec()), "is it an execution"),
        (Answer::Body(200, vec![]), "is it an execution client"),
        (Answer::Body(200, vec![0xff; 100]), "is it an execution"),
        (Answer::Body(503, b"{}".to_vec()), "no answer"),
        (Answer::Body(302, yes), "is it an execution client"),
        (Answer::Endless, "longer than 65536 bytes"),
        (Answer::Silence, "no answer"),
    ] {
        let server = Server::start(answer.clone());
        let error = ask(&server).unwrap_err();
        assert!(error.to_string().contains(told), "{answer:?}: {error}");
        let host = server.url.strip_prefix("http://").unwrap();
        assert!(error.to_string().contains(host), "{error}");
    }
}

#[test]
fn a_refusal_is_told_in_the_clients_words_without_control_characters() {
    let message = format!("execution reverted\u{1b}[2J{}", "x".repeat(1000));
    let answer = json!({"jsonrpc": "2.0", "id": 1, "error": {"code": 3, "message": message}});
    let server = Server::start(Answer::Body(200, answer.to_string().into()));
    let RpcError::Refused { code, message, .. } = ask(&server).unwrap_err() else {
        panic!("not refused");
    };
    assert_eq!(code, 3);
    assert!(message.starts_with("execution reverted\u{fffd}[2J"));
    assert_eq!(message.chars().count(), 200);
}

#[test]
fn a_client_that_is_silent_or_away_is_waited_for_once() {
    let server = Server::start(Answer::Silence);
    let silent = client(&server);
    let before = Instant::now();
    for _ in 0..100 {
        silent.accepts(&WALLET, &DIGEST, &SIGNATURE).unwrap_err();
    }
    assert!(before.elapsed() < 20 * SHORT, "{:?}", before.elapsed());
    assert_eq!(server.asked(), 1);

    // Nobody listens there; privileged, so that nothing in a test does.
    let away = ExecutionClient::new("http://127.0.0.1:1").unwrap();
    assert!(away.accepts(&WALLET, &DIGEST, &SIGNATURE).is_err());
    let again = away.accepts(&WALLET, &DIGEST, &SIGNATURE).unwrap_err();
    assert!(matches!(
        again.0.downcast_ref(),
        Some(RpcError::Silent { .. })
    ));
}

#[test]
fn a_client_that_refuses_one_question_by_its_status_is_asked_the_next() {
    let busy = Server::start(Answer::Body(503, b"{}".to_vec()));
    let client = client(&busy);
    for _ in 0..3 {
        client.accepts(&WALLET, &DIGEST, &SIGNATURE).unwrap_err();
    }
    assert_eq!(busy.asked(), 3);
}

#[test]
fn a_definition_may_be_elsewhere_and_an_execution_client_may_not() {
    let definition = cluster::definition(Version::V1_11, 4, 1);
    let there = Server::start(Answer::Body(200, definition.to_json().unwrap()));
    let here = Server::start(Answer::Elsewhere(there.url.clone()));
    assert_eq!(fetch_definition(&here.url).unwrap(), definition);

    // Five steps are taken, and six are not.
    let mut url = there.url.clone();
    let mut steps = Vec::new();
    for _ in 0..6 {
        let step = Server::start(Answer::Elsewhere(url));
        url = step.url.clone();
        steps.push(step);
    }
    assert!(matches!(
        fetch_definition(&url),
        Err(FetchError::Http { .. })
    ));
    assert_eq!(fetch_definition(&steps[4].url).unwrap(), definition);

    let yes = Server::start(result(&word("1626ba7e")));
    let moved = Server::start(Answer::Elsewhere(yes.url.clone()));
    assert!(matches!(ask(&moved), Err(RpcError::Garbage { .. })));
    assert_eq!(yes.asked(), 0, "who answers there was not chosen");
}

#[test]
fn only_http_addresses_with_a_host_are_taken() {
    for wrong in [
        "",
        "localhost:8545",
        "ftp://a",
        "http://",
        "file:///etc",
        "http:// a",
    ] {
        assert!(ExecutionClient::new(wrong).is_err(), "{wrong}");
        assert!(fetch_definition(wrong).is_err(), "{wrong}");
    }
    assert!(ExecutionClient::new("https://provider.example/v3/key").is_ok());
}

#[test]
fn a_signature_of_a_contract_is_right_when_the_execution_client_says_so() {
    let mut definition = cluster::definition(Version::V1_11, 4, 1);
    // Two owners of one contract wallet have signed.
    let signature = definition.operators[2].config_signature.repeat(2);
    definition.operators[2].config_signature = signature;
    definition.update_hashes().unwrap();
    let place = "operators[2].config_signature";

    let found = Verifier::new().definition(&definition);
    assert_eq!(found[0].path, place);
    assert!(
        found[0]
            .advice()
            .contains("--execution-client-rpc-endpoint")
    );

    let yes = Server::start(result(&word("1626ba7e")));
    let found = Verifier::new()
        .with_wallets(&client(&yes))
        .definition(&definition);
    assert!(found.is_empty(), "{found:?}");
    assert_eq!(
        yes.asked(),
        1,
        "only about the one that is not an address's own"
    );

    let no = Server::start(result(&word("ffffffff")));
    let found = Verifier::new()
        .with_wallets(&client(&no))
        .definition(&definition);
    assert_eq!(
        (&*found[0].path, found[0].rule()),
        (place, "contract-signature")
    );
}

#[test]
fn a_definition_is_fetched_whole_or_refused() {
    let definition = cluster::definition(Version::V1_11, 4, 1);
    let json = definition.to_json().unwrap();
    let server = Server::start(Answer::Body(200, json.clone()));
    assert_eq!(fetch_definition(&server.url).unwrap(), definition);

    let half = Server::start(Answer::Body(200, json[..json.len() / 2].to_vec()));
    assert!(matches!(
        fetch_definition(&half.url),
        Err(FetchError::Parse { .. })
    ));
    let endless = Server::start(Answer::Endless);
    assert!(matches!(
        fetch_definition(&endless.url),
        Err(FetchError::TooLong { .. })
    ));
    let missing = Server::start(Answer::Body(404, json));
    assert!(matches!(
        fetch_definition(&missing.url),
        Err(FetchError::Http { .. })
    ));
}
