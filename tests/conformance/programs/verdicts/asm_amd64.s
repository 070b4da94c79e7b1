#include "textflag.h"
#include "funcdata.h"

// func countedSum(values []uint64) uint64
TEXT ·countedSum(SB), NOSPLIT, $0-32
	MOVQ values_base+0(FP), SI
	MOVQ values_len+8(FP), CX
	XORL AX, AX
	TESTQ CX, CX
	JEQ  done
loop:
	ADDQ (SI), AX
	ADDQ $8, SI
	DECQ CX
	JNE  loop
done:
	MOVQ AX, ret+24(FP)
	RET

// func spin(n uint64) uint64
TEXT ·spin(SB), NOSPLIT, $0-16
	MOVQ n+0(FP), CX
	MOVQ $1, AX
again:
	IMUL3Q $1103515245, AX, AX
	ADDQ   $12345, AX
	CMPQ  CX, AX
	PAUSE
	SUBQ  $1, CX
	JHI   again
	MOVQ AX, ret+8(FP)
	RET

// func fill(p *byte, n uintptr)
TEXT ·fill(SB), NOSPLIT, $0-16
	MOVQ p+0(FP), DI
	MOVQ n+8(FP), CX
	MOVL $7, AX
	REP
	STOSB
	RET

// func framed(n uint64) uint64
TEXT ·framed(SB), 0, $24-16
	NO_LOCAL_POINTERS
	MOVQ $4, BX
	XORL DX, DX
outer:
	MOVQ n+0(FP), AX
	MOVQ AX, 0(SP)
	MOVQ BX, 16(SP)
	CALL ·spin(SB)
	MOVQ 16(SP), BX
	ADDQ 8(SP), DX
	DECQ BX
	JNE  outer
	MOVQ DX, ret+8(FP)
	RET
