//! docs/openapi.json: every path, method and answer is as it says.

use super::scene::Scene;
use dispatcher::control::socket::client;
use dispatcher::control::socket::client::Question;
use dispatcher::control::socket::router::{OPENAPI, PCAPNG, paths};
use dispatcher::control::socket::serve::Times;
use hyper::Method;
use serde_json::Value;

/// Is the value what the schema says? Only what docs/openapi.json uses of JSON Schema is known here; anything else fails.
fn check(value: &Value, schema: &Value, document: &Value, place: &str) {
    if value.is_null() && schema["type"].as_array().is_some_and(|all| all.contains(&"null".into())) {
        return;
    }
    for (key, rule) in schema.as_object().unwrap() {
        match key.as_str() {
            "description" => {}
            "$ref" => {
                let pointer = rule.as_str().unwrap().strip_prefix('#').unwrap();
                check(
                    value,
                    document.pointer(pointer).unwrap_or_else(|| panic!("{place}: {pointer}")),
                    document,
                    place,
                );
            }
            "type" => {
                // One type, or one of several; null was seen to.
                let types = rule.as_array().map_or(std::slice::from_ref(rule), Vec::as_slice);
                let fits = types.iter().filter(|one| *one != "null").any(|one| match one.as_str().unwrap() {
                    "object" => value.is_object(),
                    "array" => value.is_array(),
                    "string" => value.is_string(),
                    "integer" => value.is_u64() || value.is_i64(),
                    "number" => value.is_number(),
                    "boolean" => value.is_boolean(),
                    other => panic!("{place}: type {other}"),
                });
                assert!(fits, "{place}: {value} is no {rule}");
            }
            "anyOf" => {
                // A schema by name for an object, one that stands there for a word.
                let fitting = rule.as_array().unwrap().iter().find(|one| one["$ref"].is_null() == value.is_string());
                check(value, fitting.unwrap(), document, place);
            }
            "minimum" => assert!(value.as_f64() >= rule.as_f64(), "{place}: {value}"),
            "maximum" => assert!(value.as_f64() <= rule.as_f64(), "{place}: {value}"),
            "enum" => assert!(rule.as_array().unwrap().contains(value), "{place}: {value} is none of {rule}"),
            "items" => value.as_array().unwrap().iter().for_each(|v| check(v, rule, document, &format!("{place}[]"))),
            "required" => rule
                .as_array()
                .unwrap()
                .iter()
                .for_each(|key| assert!(value.get(key.as_str().unwrap()).is_some(), "{place}: {key} is missing")),
            "properties" => {
                for (key, value) in value.as_object().unwrap() {
                    let place = format!("{place}.{key}");
                    check(value, rule.get(key).unwrap_or_else(|| panic!("{place}: not described")), document, &place);
                }
            }
            "additionalProperties" => assert_eq!(rule, &Value::Bool(false)),
            other => panic!("{place}: {other}"),
        }
    }
}

pub const METHODS: [Method; 5] = [Method::GET, Method::POST, Method::PUT, Method::DELETE, Method::PATCH];

#[test]
fn the_description_has_every_path_and_method_and_every_answer_is_as_described() {
    let document: Value = serde_json::from_str(OPENAPI).unwrap();
    let described = document["paths"].as_object().unwrap();
    let mut known = paths();
    known.sort_unstable();
    let mut listed: Vec<&str> = described.keys().map(|k| k.as_str()).collect();
    listed.sort_unstable();
    assert_eq!(known, listed);
    let scene = Scene::new("described", true, Times::default());
    let failure = &document["components"]["schemas"]["Failure"];
    for path in known {
        for method in METHODS {
            let place = format!("{method} {path}");
            let question = |body: Vec<u8>| Question {
                body: body.into(),
                ..Question::new(method.clone(), path.replace("{backend}", "web1").replace("{pool}", "shop"))
            };
            // What stands there as an example is as described, too, and is taken.
            let wanted = &described[path][method.as_str().to_lowercase()]["requestBody"]["content"];
            let body = match wanted.as_object().and_then(|all| all.iter().next()) {
                None => Vec::new(),
                Some((_, content)) => {
                    check(&content["example"], &content["schema"], &document, &place);
                    content["example"].as_str().map_or(content["example"].to_string(), str::to_string).into_bytes()
                }
            };
            if path == "/v1/capture" && method == Method::GET {
                // Not JSON, and it goes on until it has what was asked for.
                let content = described[path]["get"]["responses"]["200"]["content"].as_object().unwrap();
                assert_eq!(content.keys().collect::<Vec<_>>(), [PCAPNG]);
                let asked = Question::new(Method::GET, "/v1/capture?count=3");
                let answer = client::request(&scene.socket, asked).unwrap();
                assert_eq!((answer.status, &answer.body[..4]), (200, &[0x0a, 0x0d, 0x0d, 0x0a][..]));
                continue;
            }
            let (status, answer) = scene.put(question(body));
            if path == "/v1/takeover" && method == Method::POST {
                // For a connection that is to be no longer HTTP's.
                assert_eq!(status, 426);
                check(&answer, failure, &document, &place);
                continue;
            }
            match described[path].get(method.as_str().to_lowercase()) {
                None => {
                    assert_eq!(status, 405, "{place}");
                    check(&answer, failure, &document, &place);
                }
                Some(described) => {
                    assert_eq!(status, 200, "{place}: {answer}");
                    let content = &described["responses"]["200"]["content"]["application/json"];
                    check(&answer, &content["schema"], &document, &place);
                }
            }
        }
    }
    let (status, answer) = scene.ask(Method::GET, "/v1/nonsense");
    assert_eq!(status, 404);
    check(&answer, failure, &document, "404");
}
