//! Pickles: what is known, what is refused, what cannot run away.

use super::*;

/// A pickle in protocol 2 that ends.
fn pickle(parts: &[&[u8]]) -> Vec<u8> {
    [&b"\x80\x02"[..], &parts.concat(), b"."].concat()
}

fn root(parts: &[&[u8]]) -> Pickle {
    let bytes = pickle(parts);
    let (pickle, length) = read(&bytes).unwrap();
    assert_eq!(length, bytes.len());
    pickle
}

fn refused(parts: &[&[u8]], why: &str) {
    let message = read(&pickle(parts)).unwrap_err();
    assert!(message.contains(why) && message.starts_with("byte "), "{message}");
}

/// The debug form of what a pickle holds, without the numbers of the places.
fn shown(parts: &[&[u8]]) -> String {
    let pickle = root(parts);
    format!("{:?}", pickle.values.get(pickle.root))
}

#[test]
fn written_values() {
    assert_eq!(shown(&[b"J\xff\xff\xff\xff"]), "Int(-1)");
    assert_eq!(shown(&[b"M\x00\x01"]), "Int(256)");
    assert_eq!(shown(&[b"\x8a\x00"]), "Int(0)");
    assert_eq!(shown(&[b"\x8a\x02\x00\xff"]), "Int(-256)");
    assert_eq!(
        shown(&[b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"]),
        format!("Int({})", 0x1950a86a20f9469cfc6c_i128)
    );
    assert_eq!(shown(&[b"G\x3f\xf8\0\0\0\0\0\0"]), "Float(1.5)");
    // Python 2: text without a type, numbers in digits.
    assert_eq!(shown(&[b"U\x02ab"]), "Text(\"ab\")");
    assert_eq!(shown(&[b"T\x02\0\0\0\xff\x00"]), "Bytes([255, 0])");
    assert_eq!(shown(&[b"I4294967296\n"]), "Int(4294967296)");
    assert_eq!(shown(&[b"L-7L\n"]), "Int(-7)");
    assert_eq!(shown(&[b"I01\n"]), "Bool(true)");
    // Protocols 4 and 5.
    assert_eq!(shown(&[b"\x95\x05\0\0\0\0\0\0\0\x8c\x01a\x94"]), "Text(\"a\")");
    assert_eq!(shown(&[b"\x96\x01\0\0\0\0\0\0\0z"]), "Bytes([122])");
    for op in
        [&b"\x8a\x11\0"[..], b"X\x05\0\0\0ab", b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffa", b"J\0\0", b"Ix"]
    {
        refused(&[op], "cut short");
    }
    refused(&[b"X\x01\0\0\0\xff"], "not UTF-8");
    refused(&[b"I1e3\n"], "in digits");
}

#[test]
fn containers_share_their_values() {
    // d = {}; d['a'] = d; [d, d, (d,)] with everything that puts it together.
    let pickle = root(&[b"]q\x00}q\x01X\x01\0\0\0ah\x01sh\x00(h\x01h\x01h\x01\x85e"]);
    let items = pickle.values.items(pickle.root);
    assert_eq!(items.len(), 3);
    assert_eq!(items[0], items[1]);
    assert_eq!(pickle.values.items(items[2]), &items[..1]);
    let entries = pickle.values.entries(items[0]).unwrap();
    assert_eq!((pickle.values.text(entries[0].0), entries[0].1), (Some("a"), items[0]));
    assert_eq!(root(&[b"(K\x01K\x02d"]).values.iter().count(), 3);
    assert_eq!(shown(&[b"\x8f(K\x01\x90"]).matches("Id").count(), 1);
    assert_eq!(shown(&[b"(K\x01(0K\x022t"]).matches("Id").count(), 3);
}

#[test]
fn nothing_but_known_names_becomes_more_than_an_object() {
    let class = |parts: &[&[u8]]| {
        let pickle = root(parts);
        assert!(matches!(pickle.values.get(pickle.root), Value::Object { .. }));
        pickle.values.class(pickle.root).unwrap()
    };
    assert_eq!(class(&[b"cposix\nsystem\nX\x02\0\0\0ls\x85R"]), "posix.system");
    assert_eq!(class(&[b"cnet\nNet\n)\x81}b"]), "net.Net");
    assert_eq!(class(&[b"cnet\nNet\n)}\x92}X\x01\0\0\0aNsb"]), "net.Net");
    assert_eq!(class(&[b"(K\x01inet\nNet\n"]), "net.Net");
    assert_eq!(class(&[b"(cnet\nNet\nK\x01o"]), "net.Net");
    assert_eq!(class(&[b"ccopy_reg\n_reconstructor\n(cnet\nNet\nc__builtin__\nobject\nNtR"]), "net.Net");
    // What an object returns, and what it is told.
    assert_eq!(class(&[b"cnet\nf\n)R)RK\x01aK\x01K\x02s"]), "net.f");
    assert_eq!(class(&[b"\x8c\x03net\x8c\x03Net\x93)R"]), "net.Net");
    // Python 2's dictionary, whose entries are given to it as pairs.
    let pickle = root(&[b"ccollections\nOrderedDict\n](U\x01aK\x02\x86e\x85R"]);
    let entries = pickle.values.entries(pickle.root).unwrap();
    assert_eq!((pickle.values.text(entries[0].0), pickle.values.count(entries[0].1)), (Some("a"), Some(2)));
}

#[test]
fn numbers_of_numpy() {
    let scalar = |number: &str, order: &[u8], bytes: &[u8]| {
        let number = [&b"cnumpy\ndtype\nU\x02"[..], number.as_bytes(), b"K\0K\x01\x87R"].concat();
        let state = [&b"(K\x03U\x01"[..], order, b"NNNtb"].concat();
        let payload = [&b"U"[..], &[bytes.len() as u8][..], bytes].concat();
        shown(&[b"cnumpy.core.multiarray\nscalar\n", &number, &state, &payload, b"\x86R"])
    };
    assert_eq!(scalar("f8", b"<", &1.5_f64.to_le_bytes()), "Float(1.5)");
    assert_eq!(scalar("f4", b">", &(-2.0_f32).to_be_bytes()), "Float(-2.0)");
    assert_eq!(scalar("i2", b"<", &(-3_i16).to_le_bytes()), "Int(-3)");
    assert_eq!(scalar("u1", b"|", &[200]), "Int(200)");
    assert_eq!(scalar("b1", b"|", &[1]), "Bool(true)");
    assert!(scalar("f8", b"<", &[0; 4]).starts_with("Object"));
    assert!(scalar("f2", b"<", &[0; 2]).starts_with("Object"));
}

/// A storage `k` of `count` floats, and then a call for a tensor of it.
fn tensor(count: &[u8], rest: &[u8]) -> Vec<u8> {
    let storage = b"ctorch._utils\n_rebuild_tensor_v2\n((U\x07storagectorch\nFloatStorage\nU\x01kU\x03cpu";
    [&storage[..], count, b"tQ", rest, b"\x89NtR"].concat()
}

#[test]
fn tensors() {
    let made = shown(&[&tensor(b"K\x06", b"K\x01K\x02\x85K\x03\x85")]);
    assert!(made.contains("offset: 1, size: [2], stride: [3]") && made.contains("FloatStorage"), "{made}");
    refused(&[&tensor(b"K\x06", b"J\xff\xff\xff\xffK\x02\x85K\x03\x85")], "place in its storage");
    refused(&[&tensor(b"K\x06", b"K\0J\xff\xff\xff\xff\x85K\x03\x85")], "shape is no list");
    refused(&[&tensor(b"K\x06", b"K\0K\x02\x85J\xff\xff\xff\xff\x85")], "stride is no list");
    refused(&[&tensor(b"K\x06", b"K\0K\x02\x85)")], "1 dimensions, but 0 strides");
    refused(&[&tensor(b"K\x06", b"K\0(K\x01K\x01K\x01K\x01K\x01K\x01K\x01K\x01K\x01t)")], "9 dimensions");
    refused(&[&tensor(b"N", b"K\0))")], "a storage has no size");
    refused(&[b"(U\x07storagectorch\nFooStorage\nU\x01kU\x03cpuK\x01tQ"], "type `FooStorage`");
    refused(&[b"U\x01xQ"], "outside of the pickle");
}

#[test]
fn programs_that_make_no_sense_end() {
    refused(&[], "a value is missing");
    refused(&[b"0"], "a value is missing");
    refused(&[b"K\x01(\x85"], "a value is missing");
    refused(&[b"t"], "a mark is missing");
    refused(&[b"h\x07"], "nothing is kept as number 7");
    refused(&[b"K\x01K\x02a"], "nothing can be appended to a number");
    refused(&[b"K\x01K\x02K\x03s"], "a number has no entries");
    refused(&[b"(o"], "no class");
    refused(&[b"\x82\x01"], "opcode 0x82");
    refused(&[b"\x80\x09"], "protocol 9");
    assert!(read(b"").unwrap_err().contains("cut short"));
    assert!(read(b"\x80\x02K\x01").unwrap_err().contains("cut short"));
}

#[test]
fn size_and_depth_are_limited() {
    // A million lists in each other, dropped as well.
    let deep = [vec![b']'; 900_000], vec![b'a'; 899_999]].concat();
    let nested = root(&[&deep]);
    assert_eq!(nested.values.iter().count(), 900_000);
    drop(nested);
    refused(&[&vec![b'N'; 2_000_001]], "more than 2000000 steps");
    refused(&[b"cnet\nf\n", &b")R".repeat(100_001)], "calls more than 100000 times");
    // Each doubles the one before: 2^60 leaves, in 60 values.
    let doubled = [&b"]K\x01a"[..], &b"q\0]h\0ah\0a".repeat(60)].concat();
    assert_eq!(root(&[&doubled]).values.iter().count(), 62);
    // A long text, turned into bytes again and again.
    let long = [&b"X"[..], &100_000_u32.to_le_bytes()[..], &[b'x'; 100_000], b"q\0"].concat();
    let encode = b"c_codecs\nencode\nh\0U\x06latin1\x86R0".repeat(1000);
    let encoded = root(&[&long, &encode]);
    assert!(!encoded.values.iter().any(|v| matches!(v, Value::Bytes(_))));
}
