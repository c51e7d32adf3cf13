"""The momentum iterative method."""

from dataclasses import dataclass, field

from steelman.attacks.bounded.ascent import Ascent, AscentState
from steelman.attacks.core import Attack, Ball, Draws, Images, Oracle, Radius, Share
from steelman.losses import CrossEntropy, Goal, Loss
from steelman.norms import Linf, Norm, per_image
from steelman.ranges import Factor, Natural


@dataclass(frozen=True)
class MIM(Attack):
    """Momentum iterative method (MI-FGSM): steps along a decaying sum of normalised gradients.

    m_{t+1} = decay m_t + g_t / mean|g_t| with g_t = grad L(x_t), and x_{t+1} = P(x_t + step_size * steepest(m_{t+1})),
    from x_0 = x; P and the steps of each norm are PGD's.

    eps          radius, one number or one per image (default 8/255; paper: 16/255)
    steps        default 10 (paper)
    step_size    default eps / steps (paper); CleverHans: .06 at eps .3 and 10 steps
    norm         Linf (default), L2 (the paper's two), L1, L0
    loss         cross-entropy (default), Margin, LogitDifference, DLR
    decay        mu, default 1 (paper)
    stop_early   images that reach the goal leave the batch at once with that iterate (default False). It changes no
                 success into a failure; use it to measure accuracy, not to transfer

    The paper divides by |g|_1, which for a fixed number of pixels is the same up to a factor that no step keeps.

    Cost: `steps` forward and gradient passes.
    Reference: Yinpeng Dong, Fangzhou Liao, Tianyu Pang, Hang Su, Jun Zhu, Xiaolin Hu and Jianguo Li, "Boosting
    adversarial attacks with momentum", CVPR 2018, section 3.1.

    Raises:
        ValueError: KL, which has no gradient at the clean image.
    """

    eps: Radius = Share(8 / 255)
    steps: Natural = 10
    step_size: Radius | None = None
    norm: Norm = Linf
    loss: Loss = field(default_factory=CrossEntropy)
    decay: Factor = 1.0
    stop_early: bool = False

    def __post_init__(self) -> None:
        if self.loss.needs_reference:
            raise ValueError(
                f"{type(self.loss).__name__} has no gradient at the clean image, where MIM starts; use PGD"
            )

    def search(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> Images:
        given = self.eps / max(self.steps, 1) if self.step_size is None else self.step_size
        step_size = per_image(given, x, "step_size").expand(len(x), *[1] * (x.ndim - 1))
        rows = AscentState.of(Ball.around(x, self.eps, self.norm, self.box), step_size, goal)
        ascent = Ascent(self.steps, self.loss, decay=self.decay, stop_early=self.stop_early)
        return rows.ball.contain(ascent.climb(oracle, rows, x).x)
