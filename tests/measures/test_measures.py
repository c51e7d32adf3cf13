import torch,time
from steelman.networks.mnist import CarliniNet
torch.set_num_threads(1)
n=CarliniNet(); x=torch.rand(128,1,28,28); y=torch.randint(0,10,(128,))
for cl in (False,True):
    if cl: n=n.to(memory_format=torch.channels_last); x=x.contiguous(memory_format=torch.channels_last)
    for _ in range(2): torch.nn.functional.cross_entropy(n(x),y).backward()
    t=time.process_time()
    for _ in range(5): torch.nn.functional.cross_entropy(n(x),y).backward()
    print(cl,(time.process_time()-t)/5)
