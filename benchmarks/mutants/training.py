"""Faults in training: the loop, what it resumes, and what identifies it."""

from benchmarks.mutants.fault import Fault

FAULTS = (
    # --- resume
    Fault(
        "resume-position",
        "resume: position",
        '"position": [self.epoch, self.batch,',
        '"position": [self.epoch, 0 * self.batch,',
        "fit",
        "same_bits",
    ),
    Fault(
        "resume-batches", "resume: position", "parts[self.batch : self.total", "parts[: self.total", "fit", "same_bits"
    ),
    Fault(
        "resume-optimiser",
        "resume: optimiser state",
        'self.optimisers[name].load_state_dict(state["optimisers"][name])',
        'state["optimisers"][name]',
        "fit",
        "same_bits",
    ),
    Fault(
        "resume-average",
        "resume: averaged weights",
        'self.averaging.average.load_state_dict(state["average"])',
        'state["average"]',
        "fit",
        "same_bits",
    ),
    Fault(
        "resume-memory",
        "resume: memory",
        'self.memory.load_state_dict(state["memory"])',
        'state["memory"]',
        "mma every_defence",
        "checkpoints or killed_and_resumed",
    ),
    Fault(
        "resume-best",
        "resume: best so far",
        "self.seconds, self.best = state",
        "self.seconds, _ = state",
        "fit",
        "same_bits or best",
    ),
    Fault(
        "resume-prepared",
        "resume: prepared images",
        "changed = [name for name, value in told.items() if found.get(name, value) != value]",
        "changed = []",
        "prepare",
        "otherwise",
    ),
    # --- the loop
    Fault(
        "descents-share", "training: loop", "update.loss if share == 1 else update.loss * share", "update.loss", "play"
    ),
    Fault(
        "step-clip",
        "training: loop",
        "clip_grad_norm_(net.parameters(), step.clip)",
        "clip_grad_norm_(net.parameters(), 1e9)",
        "play",
    ),
    Fault(
        "last-batch",
        "training: batches",
        "len(parts) > 1 and len(parts[-1]) < least",
        "len(parts) > 1 and len(parts[-1]) < 0",
        "batching",
    ),
    Fault("swa-start", "training: averaging", "progress < self.swa", "progress > 2", "fit", "averaging"),
    Fault(
        "schedule-cosine",
        "training: schedules",
        "(progress - self.warmup) / (1 - self.warmup)",
        "progress",
        "fit",
        "schedules",
    ),
    Fault(
        "schedule-steps",
        "training: schedules",
        "sum(progress >= fraction - 1e-9",
        "sum(progress > fraction + 1e-9",
        "fit",
        "schedules",
    ),
    Fault(
        "best-epoch",
        "training: best epoch",
        'line.get("margin", line.get("robust", line.get("clean",',
        'line.get("margin", line.get("clean", line.get("robust",',
        "fit",
        "best",
    ),
    # --- identity
    Fault(
        "digest-of-settings",
        "identity: attack digest",
        "(item.name, getattr(value, item.name)) for item in fields(value) if item.compare",
        "item.name for item in fields(value) if item.compare",
        "identity",
    ),
    Fault(
        "digest-of-closures",
        "identity: attack digest",
        "(function.__defaults__, function.__kwdefaults__, closure)",
        "(function.__defaults__, function.__kwdefaults__)",
        "identity",
    ),
    Fault(
        "digest-of-files",
        "identity: attack digest",
        'self.say("file", hashlib.sha256(file.read_bytes()).hexdigest())',
        'self.say("file", str(file))',
        "identity",
    ),
    Fault(
        "digest-of-weights",
        "identity: model digest",
        'readers[kind].take((f"{name}.{key}", value))',
        'readers[kind].take((f"{name}.{key}", value.shape))',
        "identity",
    ),
    Fault(
        "digest-of-attributes",
        "identity: model digest",
        "name not in _OF_TORCH and not isinstance(value, Description)",
        "name in _OF_TORCH and not isinstance(value, Description)",
        "identity",
    ),
    Fault("digest-of-labels", "identity: pixels", 'f"{shape} {label}".encode()', 'f"{shape}".encode()', "identity"),
    Fault("digest-of-pixels", "identity: pixels", "LEVELS = 65535 * 16", "LEVELS = 15", "identity"),
    Fault(
        "training-images",
        "identity: training",
        "images of {data.shape}, {data.digest()}",
        "images of {data.shape}",
        "fit",
        "set_of_images",
    ),
    Fault(
        "training-classifier",
        "identity: training",
        "digest(model_parts(nets[CLASSIFIER]))} if defence.frozen",
        "digest(0)} if defence.frozen",
        "players",
        "continued",
    ),
    # --- files
    Fault(
        "atomic-write",
        "files: atomic write",
        "os.replace(partial, path)",
        "path.write_bytes(partial.read_bytes()), os.replace(partial, path)",
        "files",
        "text or permissions",
    ),
    Fault(
        "partial-left",
        "files: atomic write",
        "    except BaseException:\n        partial.unlink(missing_ok=True)\n",
        "    except BaseException:\n",
        "files",
        "text or permissions",
    ),
    Fault("seal", "files: seal", ".hexdigest() == seal", ".hexdigest() != 0", "checkpoint"),
    Fault("permissions", "files: permissions", "os.chmod(partial, mode)", "mode", "files", "text or permissions"),
    # --- trust
    Fault("trust-prefix", "trust", 'module.startswith(f"{each}.")', "module.startswith(each)", "trust"),
    Fault("trust-files", "trust", "here = not from_file or", "here = True or", "trust"),
    Fault("trust-home", "trust", "if _is_standard(home):", "if home is None:", "trust"),
    Fault("trust-ends", "trust", "_allowed.reset(token)", "token", "trust"),
    # --- data readers
    Fault("idx-magic", "data: IDX", "magic != 0x0800 + dimensions", "magic < 0x0800", "data_files"),
    Fault(
        "cifar-labels",
        "data: CIFAR",
        "records[:, self.labels - 1].to(torch.int64)",
        "records[:, 0].to(torch.int64)",
        "data_files",
    ),
    Fault(
        "cifar-pixels",
        "data: CIFAR",
        "records[:, self.labels :].reshape(-1, 3, 32, 32)",
        "records[:, self.labels :].reshape(-1, 32, 32, 3).permute(0, 3, 1, 2)",
        "data_files",
    ),
    Fault("svhn-labels", "data: SVHN", "tags.astype(np.int64) % 10", "tags.astype(np.int64) - 1", "data_files"),
    Fault(
        "mat-order",
        "data: MATLAB",
        'reshape(dimensions, order="F")',
        'reshape(dimensions, order="C")',
        "decoding data_files",
        "matlab or svhn",
    ),
    Fault(
        "mat-padding", "data: MATLAB", "8 + length + -length % 8", "8 + length", "decoding data_files", "matlab or svhn"
    ),
    Fault(
        "bomb", "data: bombs", "size > max(SMALL, RATIO * stored)", "size > 2**62", "decoding bombs", "zeros or bomb"
    ),
    Fault("crop", "data: augmentation", "(2 * size + 1)).long()", "(2 * size)).long()", "data_augment"),
    Fault("flip", "data: augmentation", "batch.x.flip(-1)", "batch.x.flip(-2)", "data_augment"),
    Fault(
        "split-spread",
        "data: split",
        "(place + 1) * count // len(order) > place * count // len(order)",
        "place < count",
        "data",
    ),
    Fault("sample-of-classes", "data: sample", "mixed[share[mixed].argsort(stable=True)]", "mixed", "sample"),
)
