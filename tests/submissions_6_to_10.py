"""What students hand in for exercises 6 to 10: the typical wrong answers, as submissions.py has them for 1 to 5."""

from submissions import Submission


def replacing(changed: dict[str, dict[str, str]], lost: dict[str, str]) -> Submission:
    return Submission(lost=lost, changed=changed)


SUBMISSIONS: dict[str, dict[str, Submission]] = {
    "06_generate": {
        "tiling_counted_from_the_start_of_the_prompt": replacing(
            {"generate-engine": {"U = n & -n\n": "U = min(self.position & -self.position, n)\n"}},
            {
                "generate-engine-values": r"a prompt of 3, seed \d+: mixer 0, sequence 0, channel 0, position \d+",
                "generate-loop-tokens": r"token \d+ is \d+, and \d+ is the likeliest",
                "generate-loop-trained": r"The prompt is right, a later step is wrong",
            },
        ),
        "a_call_for_each_mixer": replacing(
            {
                "generate-engine": {
                    "        x = torch.fft.rfft(self.x[..., n - U : n], 2 * U)\n": (
                        "        x = self.x[..., n - U : n].unbind(1)\n"
                        "        x = torch.stack([torch.fft.rfft(a, 2 * U) for a in x], 1)\n"
                    )
                }
            },
            {"generate-engine-calls": r"calls of an FFT for 64 positions of one mixer.* and \d+ for 4 mixers"},
        ),
        "takes_the_least_likely": replacing(
            {"generate-loop": {"logits[:, : model.config.vocab_size].argmax": "logits.argmin"}},
            {
                "generate-loop-tokens": r"token \d+ is \d+",
                "generate-loop-trained": r"The prompt itself is taken wrongly",
            },
        ),
        "asks_the_model_itself": replacing(
            {
                "generate-loop": {
                    "    decoder = ": (
                        "    for _ in range(n):\n        token = model(prompt[None])[:, -1].argmax(-1)\n"
                        "        prompt = torch.cat([prompt, token])\n    return prompt\n    decoder = "
                    )
                }
            },
            {
                "generate-loop-tokens": r"flashref's own hyena.HyenaOperator.forward: write this part yourself",
                "generate-loop-trained": r"flashref's own",
            },
        ),
    },
    "07_single_buffer": {
        "keeps_inputs_beside_the_slots_and_a_view": replacing(
            {
                "buffer-single": {
                    "self.n = 0": "self.n, self.x = 0, torch.zeros_like(rho)",
                    "self.n = n = n + 1": "self.x[:, n] = x_t\n        self.n = n = n + 1",
                },
                "buffer-half": {"self.slots[:] = self.tau": "self.slots = self.tau"},
            },
            {
                "buffer-single-memory": r"after step \d+ it keeps \d+ numbers a channel.*Is x_t kept beside its slot",
                "buffer-half-memory": r"L/2 is 32, and 48 are allowed.*a view \(a slice\) of something longer",
            },
        ),
        "overwrites_the_sum_first_and_adds_where_it_must_replace": replacing(
            {
                "buffer-single": {
                    "        z_t = self.slots[:, n] + x_t * self.rho[:, 0]\n        self.slots[:, n] = x_t": (
                        "        self.slots[:, n] = x_t\n        z_t = self.slots[:, n] + x_t * self.rho[:, 0]"
                    )
                },
                "buffer-half": {"= self.tau(self.slots)": "+= self.tau(self.slots)"},
            },
            {
                "buffer-single-values": r"Single is wrong at L = 1, the shortest.* z_0 must be rho_0 = 10, got 11",
                "buffer-half-values": r"Half is wrong at L = 2, the shortest.* z_1 must be rho_1 = 11, got 12",
            },
        ),
    },
    "08_kernel": {
        "store_without_a_mask_and_no_stride": replacing(
            {
                "kernel-column": {" + x * taps, mask=i < q)": " + x * taps)"},
                "kernel-tile": {"x = tl.load(slots + c * S + n - U + j)": "x = tl.load(slots + n - U + j)"},
            },
            {
                "kernel-column-values": r"With C = 1, U = 1, q = 5.* it writes to slots\[0, 8\].*is the store masked",
                "kernel-tile-values": r"Channel 0 is right: where in memory do slots and taps of channel 1 begin",
                "kernel-engine-values": r"takes every single pair right, and is wrong at random numbers",
            },
        ),
        "off_by_one_lag_and_a_sum_in_float32": replacing(
            {
                "kernel-column": {"rho + c * K + 1 + i": "rho + c * K + i"},
                "kernel-tile": {"other=0.0) + total": "other=0.0) + total.to(tl.float32)"},
            },
            {
                "kernel-column-values": r"it took a number that belongs to no pair of the tile",
                "kernel-tile-values": r"That has the digits of float32: sum in the dtype of the slots",
                "kernel-engine-values": r"random numbers",
            },
        ),
        "a_launch_for_each_channel_and_the_sum_lost": replacing(
            {
                "kernel-column": {
                    "    column_kernel[(C,)](slots, rho, n,": (
                        "    for c in range(C):\n        column_kernel[(1,)](slots[c:], rho[c:], n,"
                    )
                },
                "kernel-tile": {"tl.load(at, mask=i < q, other=0.0) + total": "total"},
            },
            {
                "kernel-column-values": r"launches 3 kernels for 3 channels",
                "kernel-tile-values": r"must become 100 \+ 11 = 111, got 11: the partial sum that was there is lost",
                "kernel-engine-values": r"KernelFlash is wrong at L = \d",
            },
        ),
    },
    "09_relaxed_product": {
        "first_pair_twice_and_lags_too_few": replacing(
            {
                "product-lazy": {"return (": "return x_t * self.rho[:, 0] * (t == 0) + ("},
                "product-rule": {"range(1, 2 * U)": "range(1, U + 1)"},
                "product-relaxed": {"        if n:\n            z_t": "        if True:\n            z_t"},
            },
            {
                "product-lazy-values": r"with single ones at x_0 and rho_0 only z_0 may be 1.*Got z_0 .. z_8 = 2, 0",
                "product-rule-right": r"wrong at L = 8.* - pairs missed: \(3, 4\), \(4, 3\)",
                "product-relaxed-values": r"single ones at x_0 and rho_0",
            },
        ),
        "fixed_filter_rule_uses_taps_of_the_future": replacing(
            {"product-rule": {"    if U == n:": "    if U < 0:"}},
            {"product-rule-right": r"wrong at L = 2.* - pairs before both are known: \(0, 1\) at step 1"},
        ),
        "the_plain_product_inside": replacing(
            {
                "product-relaxed": {
                    "class RelaxedProduct:": "class RelaxedProduct(LazyProduct):\n    pass\n\n\nclass Other:"
                }
            },
            {"product-relaxed-work": r"L = 4096 RelaxedProduct does 8,390,656 multiply-adds.*at most 0.35 of that"},
        ),
    },
    "10_longest_step": {
        "eager": replacing(
            {
                "bound-engine": {
                    "class Bounded:": (
                        "class Bounded:\n    def __init__(self, rho):\n        self.rho, self.n = rho, 0\n"
                        "        self.z = torch.zeros_like(rho)\n\n    def push(self, x_t):\n        n = self.n\n"
                        "        self.z[:, n:] += x_t[:, None] * self.rho[:, : self.rho.shape[-1] - n]\n"
                        "        self.n += 1\n        return self.z[:, n].clone()\n\n\nclass Other:"
                    )
                }
            },
            {
                "bound-half": r"2 times relaxed is allowed in all: short steps alone are not enough",
                "bound-eighth": r"short steps alone are not enough",
            },
        ),
        "relaxed": replacing(
            {"bound-engine": {"class Bounded:": "class Bounded(Relaxed):\n    pass\n\n\nclass Other:"}},
            {
                "bound-half": r"Step 2047 may do 65,538 at most, 0.5 of relaxed's longest",
                "bound-eighth": r"Step 2047 may do 16,384 at most",
            },
        ),
        "a_square_too_late": replacing(
            {"bound-engine": {"self.due += self.known[K] * self.far[0]": "pass"}},
            {
                "bound-values": r"Bounded is wrong at L = 3.* got 0: the pair is missed",
                "bound-half": "",
                "bound-eighth": "",
            },
        ),
    },
}
