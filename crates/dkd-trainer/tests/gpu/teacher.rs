//! A teacher that is asked a batch ahead, and in one launch for a convolution and what follows it.

use super::*;
use dkd_kernels::gpu::Counting;

const KD: &str = "[[rows]]\nid = 'kd'\nloss = [{ method = 'ce' }, { method = 'kd' }]\n";

/// With a row whose loss is between two parts the teacher is asked in the step, without it a batch ahead.
#[test]
fn a_teacher_says_the_same_whenever_it_is_asked() {
    let (Some(device), Some(backwards)) = (device(true), on(Emulated::backwards(), true)) else { return };
    let asked = Trained::new(&recipe(SAME), device.clone());
    for machine in [device.clone(), backwards] {
        let early = Trained::new(&recipe(KD), machine);
        assert!(early.bytes("kd") == asked.bytes("kd") && early.numbers("kd") == asked.numbers("kd"));
    }
    let text = |teacher: &str, rows: &str| {
        let text = format!(
            "data = {{ dataset = 'synthetic', augment = 'crop-flip' }}
            train = {{ epochs = 2, batch_size = 8 }}
            optimizer.lr = 0.02
            student.model = 'resnet8'
            teacher = {{ model = '{teacher}', epochs = 1 }}
            {rows}"
        );
        Config::parse(&text, "test").unwrap().check().unwrap()
    };
    // In both modes, with dropout in one; three batches in an epoch.
    let modes = |row: &str| {
        let both = "[[rows]]\nid = 'train'\nteacher_mode = 'train'\nloss = [{ method = 'kd' }]\n";
        text("seed_teacher", &format!("{both}{KD}{row}"))
    };
    let parted = "[[rows]]\nid = 'parted'\nloss = [{ method = 'kd' }, { method = 'kd', name = 'again' }]\n";
    let (early, asked) =
        (Trained::new(&modes(""), device.clone()), Trained::new(&modes(parted), device.clone()));
    for row in ["train", "kd"] {
        assert!(early.bytes(row) == asked.bytes(row), "{row}");
    }
    let text = |rows: &str| text("resnet8", rows);
    // That row ends within an epoch.
    let wild = "[[rows]]\nid = 'wild'\nnonfinite = 'mark'\noptimizer.lr = 1e30
        loss = [{ method = 'ce' }, { method = 'rld' }]\n";
    let both = Trained::new(&text(&format!("{wild}{KD}")), device.clone());
    let ended = both.results.iter().find(|r| r.row == "wild").unwrap().diverged.as_ref().unwrap();
    assert_eq!((ended.epoch, ended.step), (1, 1));
    assert!(both.bytes("kd") == Trained::new(&text(KD), device).bytes("kd"));
}

#[test]
fn a_teacher_answers_the_next_batch_meanwhile() {
    // What is recorded that nothing waits for: gradients of weights, and the teacher.
    let aside = |loss: &str| {
        let machine = Counting::default();
        let gpu = Gpu { machine: Arc::new(machine.clone()), arithmetic: Arithmetic::F32, recorded: true };
        let compute = Compute { gpu: Some(gpu), ..Cpu::new(1).unwrap().into() };
        let recipe = recipe(&format!(
            "[[rows]]\nid = 'row'\nnonfinite = 'continue'\nloss = [{{ method = 'ce' }}{loss}]"
        ));
        let folder = tempfile::tempdir().unwrap();
        train(&recipe, compute, folder.path(), &mut Losses::default()).unwrap();
        machine.calls().aside
    };
    // The teacher's own training takes as much as a student's.
    let trained = 2 * aside("");
    let (early, parted) =
        (aside(", { method = 'kd' }"), aside(", { method = 'kd' }, { method = 'pkt', weight = 1.0 }"));
    // Nine convolutions, seven normalisations, pooling, a layer with a bias, and the batch; in an epoch of two batches once.
    assert_eq!(early, trained + 20);
    // Where the loss is between two parts the teacher is asked before it.
    assert_eq!(parted, trained);
}

#[test]
fn a_teacher_that_answers_often_is_asked_in_one() {
    let Some(device) = device(true) else { return };
    let of = |epochs: usize| {
        let text = format!(
            "data = {{ dataset = 'synthetic', augment = 'crop-flip' }}
            train = {{ epochs = {epochs}, batch_size = 16 }}
            optimizer.lr = 0.02
            student.model = 'resnet8'
            teacher = {{ model = 'resnet8', epochs = 1 }}
            [[rows]]
            id = 'kd'
            loss = [{{ method = 'ce' }}, {{ method = 'kd' }}]"
        );
        Config::parse(&text, "test").unwrap().check().unwrap()
    };
    // So many that compiling for its convolutions would be worth it; they end after the first batches.
    let (often, seldom) = (of(200_000), of(3));
    let trained = |recipe: &Recipe, compute: Compute, batches: &[usize]| -> Losses {
        let folder = tempfile::tempdir().unwrap();
        let mut all = Losses::default();
        for stop_after in batches {
            let mut losses = Losses { stop_after: Some(*stop_after), ..Losses::default() };
            let stopped = train(recipe, compute.clone(), folder.path(), &mut losses);
            assert!(matches!(stopped, Err(Error::Interrupted { .. })), "{stopped:?}");
            all.all.extend(losses.all);
        }
        all
    };
    // The teacher's own two batches come first.
    let (got, apart) = (trained(&often, device.clone(), &[6]), trained(&seldom, device.clone(), &[6]));
    assert_near(&got, &apart);
    // Sums are not rounded before they are normalised: the last digits tell that it is another way.
    let of_student = |losses: &Losses| -> Vec<f64> {
        losses.all.iter().filter(|(row, ..)| row == "kd").map(|(.., loss)| *loss).collect()
    };
    assert!(of_student(&got).len() == 2 && of_student(&got) != of_student(&apart));
    // Resumed, it is asked as before.
    let resumed = trained(&often, device, &[4, 2]);
    assert_eq!(resumed.all.last(), got.all.last());
}
